"""Values -> the blocks that show them: a turn, an error, a status, a proof, checks, an end."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from opencode_magic.core.parts import (
    FilePart,
    OtherPart,
    PatchPart,
    ReasoningPart,
    TextPart,
    ToolPart,
)
from opencode_magic.core.status import LOG_LINES_KEPT
from opencode_magic.errors import OpencodeMagicError, SandboxLaunchError
from opencode_magic.render import words
from opencode_magic.render.cards import (
    doctor_blocks,
    down_blocks,
    log_blocks,
    proof_blocks,
    status_blocks,
)
from opencode_magic.render.sentences import with_next
from opencode_magic.render.shapes import (
    Answer,
    Block,
    Card,
    Code,
    Fold,
    Footer,
    Line,
    Notice,
    Prose,
    Row,
    Span,
)
from opencode_magic.render.tools import tool_fold
from opencode_magic.render.visible import shorten, visible_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opencode_magic.core.parts import Part, PermissionRequest, Turn
    from opencode_magic.core.receipt import HostCount, Receipt

__all__ = [
    "Block",
    "doctor_blocks",
    "down_blocks",
    "error_blocks",
    "permission_blocks",
    "proof_blocks",
    "status_blocks",
    "turn_blocks",
]

HOSTS_SHOWN = 3
BODIES_LIMIT_CHARS = 3_000_000
"""What folded rows show of outputs and thoughts, all together: 500 long outputs have 2 MB."""
REQUESTS_SHOWN = 20
REASONING_LIMIT_CHARS = 20_000
_WANTS = {
    "bash": "wants to run",
    "edit": "wants to change",
    "webfetch": "wants to fetch",
    "read": "wants to read",
}


def turn_blocks(turn: Turn) -> tuple[Block, ...]:
    """Give what the agent said and did, oldest first, and how it ended.

    While the turn runs, folded rows have no body and reasoning is only named, so that what is
    shown again with each frame stays small.
    """
    is_final = turn.state != "running"
    blocks = _parts_blocks(turn, is_final=is_final)
    for request in turn.permissions[:REQUESTS_SHOWN]:
        blocks.extend(permission_blocks(request))
    if (more := len(turn.permissions) - REQUESTS_SHOWN) > 0:
        blocks.append(Row((Span(f"and {words.plural(more, 'more request')}", "muted"),)))
    if turn.retry is not None and not is_final:
        message = visible_line(turn.retry.message)
        waiting = f"The model's provider asked to wait (attempt {turn.retry.attempt}): {message}"
        blocks.append(Notice("warn", "Waiting:", (Span(waiting),)))
    if is_final:
        blocks.extend(_outcome(turn, is_empty=not blocks))
    blocks.append(_footer(turn))
    return (Answer(tuple(blocks)),)


def error_blocks(error: BaseException) -> tuple[Block, ...]:
    """Give an error as one sentence and the next step; for a launch also its last log lines."""
    if not isinstance(error, OpencodeMagicError):
        kind = type(error).__name__
        return (Notice("bad", f"{kind}:", (Span(visible_line(str(error), limit_chars=600)),)),)
    notice = Notice("bad", f"{error.heading}:", with_next(error.message, error.next_step))
    lines = error.log_lines if isinstance(error, SandboxLaunchError) else ()
    return (notice, *log_blocks(lines[-LOG_LINES_KEPT:]))


def permission_blocks(request: PermissionRequest) -> tuple[Block, ...]:
    """Give what the agent asks leave for."""
    asked = visible_line(request.permission, limit_chars=40)
    does = _WANTS.get(request.permission, "asks for leave")
    left = (Span("May it?", "warn", "pill"), Span(asked, form="strong"), Span(does))
    patterns = "\n".join(request.patterns[:20])
    row = Row(left, (Span("no answer means no", "muted"),))
    return (Card((row, Code(shorten(patterns, limit_chars=2_000)))) if patterns else Card((row,)),)


def _parts_blocks(turn: Turn, *, is_final: bool) -> list[Block]:
    """Give every part's blocks; once the bodies of folded rows are enough, rows without."""
    blocks: list[Block] = []
    room_chars, left_out = BODIES_LIMIT_CHARS, 0
    for part in turn.parts:
        for block in _part_blocks(part, turn, is_final=is_final):
            if not isinstance(block, Fold) or not block.body:
                blocks.append(block)
            elif room_chars > 0:
                room_chars -= sum(len(code.text) for code in block.body if isinstance(code, Code))
                blocks.append(block)
            else:
                left_out += 1
                blocks.append(replace(block, body=()))
    if left_out:
        said = f"What {words.plural(left_out, 'row')} opened onto is left out here: it is too much."
        blocks.append(Notice("muted", "", (Span(f"{said} The Reply has it.", "muted"),)))
    return blocks


def _part_blocks(part: Part, turn: Turn, *, is_final: bool) -> Iterator[Block]:
    match part:
        case TextPart():
            if part.text.strip() and not part.is_synthetic:
                yield Prose(part.text, key=part.part_id, is_final=is_final)
        case ReasoningPart():
            if part.text.strip():
                yield _reasoning(part, with_body=is_final)
        case ToolPart():
            yield tool_fold(part, turn.receipt, with_body=is_final)
        case FilePart():
            name = visible_line(part.filename or part.mime, limit_chars=120)
            yield Row((Span("file", "muted"), Span(name, form="code")))
        case PatchPart():
            if part.files:
                yield _patch(part)
        case OtherPart():
            pass
        case _ as never:
            assert_never(never)


def _reasoning(part: ReasoningPart, *, with_body: bool) -> Fold:
    took = ""
    if part.started_ms and part.ended_ms:
        took = words.seconds((part.ended_ms - part.started_ms) / 1000)
    text = shorten(part.text.strip(), limit_chars=REASONING_LIMIT_CHARS)
    body = (Code(text, "wrapped"),) if with_body else ()
    return Fold((Span("thought", "muted"),), (Span(took, "muted"),) if took else (), body)


def _patch(part: PatchPart) -> Row:
    names = [visible_line(name.rsplit("/", 1)[-1], limit_chars=60) for name in part.files[:5]]
    more = len(part.files) - len(names)
    line: list[Span] = [Span("changed", "muted")]
    line += [Span(name, form="code") for name in names]
    if more:
        line.append(Span(f"and {more} more", "muted"))
    return Row(tuple(line))


def _outcome(turn: Turn, *, is_empty: bool) -> Iterator[Block]:
    said = visible_line(turn.error, limit_chars=600)
    error = with_next(said, visible_line(turn.next_step, limit_chars=300)) if said else ()
    match turn.state:
        case "failed":
            yield Notice("bad", "Turn failed:", error or (Span("no reason was given"),))
        case "refused":
            yield Notice("warn", "Refused:", error or (Span("the agent asked and got no leave"),))
        case "stopped":
            words_ = "nothing had arrived" if is_empty else "what had arrived is kept"
            yield Notice("warn", "Stopped:", error or (Span(words_),))
        case _:
            if is_empty:
                yield Notice("muted", "", (Span("The agent said nothing.", "muted"),))


def _footer(turn: Turn) -> Footer:
    left: list[Line] = [(Span(_ended(turn), "muted"),)]
    scripted = Span("scripted model", "warn")
    if turn.state == "running":
        return Footer((*left, (scripted,)) if turn.is_scripted else tuple(left))
    if turn.tokens.total or turn.state == "done":  # what a step took is known when it has ended
        left.append((Span(words.tokens(turn.tokens.total), "muted"),))
    if turn.is_scripted:
        left.append((Span("no cost, ", "muted"), scripted))
    else:
        left.append((Span(words.cost(turn.cost), "muted"),))
        left.append((Span(visible_line(turn.model, limit_chars=80), "muted"),))
    return Footer(tuple(line for line in left if line[0].text), receipt_line(turn.receipt))


def _ended(turn: Turn) -> str:
    took = words.seconds(turn.duration_s)
    match turn.state:
        case "running":
            return "running"
        case "done":
            return f"done in {took}"
        case "stopped":
            return f"stopped after {took}"
        case "refused":
            return f"refused after {took}"
        case "failed":
            return f"failed after {took}"
        case _ as never:
            assert_never(never)


def receipt_line(receipt: Receipt | None) -> Line:
    """Give what was reached, what was blocked, and how that is known."""
    if receipt is None:
        return (Span("no receipt", "muted"),)
    reached = _hosts(receipt.reached)
    line = [Span(f"reached {reached}" if reached else "reached nothing", "muted")]
    if receipt.blocked:
        line += [Span(" · ", "muted"), Span(f"blocked {_hosts(receipt.blocked)}", "warn", "strong")]
    line.append(Span(f" · {_source(receipt)}", "muted"))
    return tuple(line)


def _source(receipt: Receipt) -> str:
    if receipt.source == "firewall record":
        return "firewall's record" if receipt.is_complete else "firewall's record, with gaps"
    return "from tool reports" if receipt.is_complete else "from tool reports, not complete"


def _hosts(places: tuple[HostCount, ...]) -> str:
    counts: dict[str, int] = {}
    for place in places:
        counts[place.host] = counts.get(place.host, 0) + place.count
    ranked = sorted(counts.items(), key=lambda pair: -pair[1])
    shown = [
        f"{visible_line(host, limit_chars=60)} {count}" for host, count in ranked[:HOSTS_SHOWN]
    ]
    more = len(ranked) - len(shown)
    return ", ".join([*shown, f"and {more} more"] if more else shown)
