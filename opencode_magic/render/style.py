"""The one place that knows colours, sizes and lines: names -> inline style declarations.

Every colour is the front end's own variable with a fallback, mixed with the text's colour, so that
it reads on a light and on a dark page. A plain colour stands before each for pages whose sanitiser
knows no ``var()`` (JupyterLab 4.6 on notebooks that are not trusted).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opencode_magic.render.shapes import Tone

_LINE = "rgba(128,128,128,.3)"
_MONO = "var(--jp-code-font-family,monospace)"

_COLOURS: dict[Tone, tuple[str, str]] = {
    "good": ("--jp-success-color1", "#388e3c"),
    "warn": ("--jp-warn-color1", "#bf6503"),
    "bad": ("--jp-error-color1", "#d32f2f"),
    "active": ("--jp-brand-color1", "#1976d2"),
}
_SHARE = {"good": 80, "warn": 60, "bad": 85, "active": 90}
"""So much of the colour that words keep 4.5 to 1 of contrast, on a pill too, in both themes."""


def colour(tone: Tone) -> str:
    """Give the declarations of a tone's text; empty for plain text."""
    if tone == "muted":
        return "opacity:.68;"
    if tone == "plain":
        return ""
    name, fallback = _COLOURS[tone]
    return (
        f"color:{fallback};"
        f"color:color-mix(in srgb,var({name},{fallback}) {_SHARE[tone]}%,currentColor);"
    )


def wash(tone: Tone) -> str:
    """Give a faint background of a tone."""
    name, fallback = _COLOURS.get(tone, ("--jp-ui-font-color2", "#808080"))
    return (
        "background-color:rgba(128,128,128,.12);"
        f"background-color:color-mix(in srgb,var({name},{fallback}) 13%,transparent);"
    )


def bar(tone: Tone) -> str:
    """Give a solid background of a tone."""
    name, fallback = _COLOURS[tone]
    return f"background-color:{fallback};background-color:var({name},{fallback});"


def rule(tone: Tone) -> str:
    """Give the colour of the rule at the left of a notice."""
    name, fallback = _COLOURS.get(tone, ("--jp-border-color2", "#9e9e9e"))
    return f"border-left:3px solid {fallback};border-left-color:var({name},{fallback});"


ROOT = (
    "font-family:var(--jp-ui-font-family,system-ui,sans-serif);font-size:13px;line-height:1.5;"
    "font-variant-numeric:tabular-nums;max-width:900px;"
)
CARD = f"border:1px solid {_LINE};border-radius:7px;margin:4px 0 8px 0;overflow:hidden;"
ROW = "display:flex;flex-wrap:wrap;gap:2px 10px;align-items:center;padding:7px 12px;"
ROW_LINE = f"border-top:1px solid {_LINE};"
LEFT = (
    "display:flex;flex-wrap:wrap;gap:2px 10px;align-items:center;flex:1 1 auto;min-width:0;"
    "overflow-wrap:anywhere;"
)
LABEL = "flex:1 1 auto;min-width:0;overflow-wrap:anywhere;"
RIGHT = "margin-left:auto;text-align:right;overflow-wrap:anywhere;"
TIMES = "margin-left:auto;text-align:right;white-space:nowrap;"
STEPS = "padding:8px 12px 10px 12px;"
STEP = "display:flex;gap:8px;align-items:baseline;"
MARK = "width:14px;text-align:center;"
TRACK = f"background-color:{_LINE};height:4px;border-radius:2px;margin-top:9px;overflow:hidden;"
FILL = "height:4px;border-radius:2px;"
INSET = "padding:2px 12px;"
PILL = "border-radius:9px;padding:1px 8px;font-weight:600;"
CHIP = "background:#8882;border-radius:4px;padding:1px 5px;"
"""Short on purpose, as all that stands in prose: a reply holds hundreds. Front ends give ``code`` a
fixed width, and where a sanitiser knows no ``#8882`` also a background."""
TOOL = f"font-family:monospace;font-family:{_MONO};font-size:12px;"
STRONG = "font-weight:600;"
ANSWER = f"border-left:3px solid {_LINE};padding:2px 0 2px 14px;margin:2px 0 8px 0;"
PROSE = "font-size:14px;line-height:1.55;overflow-wrap:anywhere;margin:8px 0;"
START = "text-align:start;"
"""For paragraphs with a direction of their own: JupyterLab 4.6 sets all of them to the left."""
TAIL = "white-space:pre-wrap;"
CODE = (
    "background:rgba(128,128,128,.1);border-radius:6px;padding:8px 12px;font-size:12px;"
    f"font-family:{_MONO};overflow-x:auto;margin:6px 0 10px 0;"
)
WRAPPED = f"{CODE}white-space:pre-wrap;overflow-wrap:anywhere;"
FOLD = "margin:3px 0;"
SUMMARY = "cursor:pointer;overflow:hidden;"
SUMMARY_RIGHT = "float:right;margin-left:12px;"
NO_MARKER = "padding-left:14px;overflow:hidden;"
FOLD_BODY = "margin:3px 0 6px 16px;"
FOOTER = (
    f"display:flex;flex-wrap:wrap;gap:2px 16px;border-top:1px solid {_LINE};margin-top:8px;"
    "padding-top:5px;font-size:12px;"
)
NOTICE = "padding:3px 0 3px 12px;margin:4px 0 8px 0;font-size:14px;overflow-wrap:anywhere;"
WIDE = "overflow-x:auto;"
"""Around a table: where the window is narrow it scrolls, and is neither cut off nor squeezed."""
TABLE = "border-collapse:collapse;border:none;margin:4px 0 6px 4px;font-size:13px;"
TABLE_ROW = "background:none;border:none;"
_CELL = "text-align:left;padding:3px 9px;border:none;vertical-align:top;"
CELL = f"{_CELL}white-space:normal;min-width:130px;"
SHORT_CELL = f"{_CELL}white-space:nowrap;"
HEAD = SHORT_CELL + "font-weight:600;opacity:.68;"
QUOTE = f"border-left:3px solid {_LINE};margin:6px 0;padding:0 0 0 12px;opacity:.85;"
RULER = f"border:none;border-top:1px solid {_LINE};margin:12px 0;"
GRID = (
    f"border-collapse:collapse;margin:6px 0;border:1px solid {_LINE};font-size:13px;"
    "overflow-wrap:break-word;"
)
GRID_CELL = f"padding:4px 10px;border:1px solid {_LINE};text-align:"

CODE_COLOURS: dict[str, str] = {
    "keyword": "#17c",
    "string": "#183",
    "comment": "#888",
    "good": "#183",
    "bad": "#c33",
}
"""Token colours that read on both pages once they are mixed with the text's colour."""


def code_colour(kind: str) -> str:
    """Give the declaration of a code token's colour. Where it is not known, code is plain."""
    return f"color:color-mix(in srgb,{CODE_COLOURS[kind]} 72%,currentColor)"
