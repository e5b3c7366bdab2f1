from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from IPython.core.error import UsageError

import opencode_magic
from opencode_magic.core.conversation import Message, TextPart, Turn
from opencode_magic.errors import (
    NotLaunchedError,
    ProviderError,
    SandboxLaunchError,
    SettingsError,
    UsageMistake,
)
from opencode_magic.jupyter.interrupts import interrupt_in_one_line
from opencode_magic.session import api
from opencode_magic.session.reply import Reply
from tests.doubles import StandInSandbox, StandInStarter

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from opencode_magic.jupyter.magics.sandbox import OpencodeMagics

LINE_MAGICS = (
    "opencode_up",
    "opencode_prove",
    "opencode_status",
    "opencode_doctor",
    "opencode_down",
)
TURN = Turn(
    "ses_1",
    "hi",
    "done",
    messages=(
        Message("msg_1", "ses_1", "assistant", parts=(TextPart("prt_1", "msg_1", "Hello."),)),
    ),
    started_ms=1_000,
    ended_ms=3_300,
)


def magics(shell: InteractiveShell) -> OpencodeMagics:
    """Give the instance that holds the state."""
    found: OpencodeMagics = shell.magics_manager.registry["OpencodeMagics"]
    return found


def error_of(shell: InteractiveShell, cell: str) -> BaseException | None:
    """Run a cell and give what it raised."""
    error: BaseException | None = shell.run_cell(cell).error_in_exec
    return error


def test_loading_twice(loaded: InteractiveShell) -> None:
    """Loading again changes nothing: the state is kept."""
    before = magics(loaded)

    loaded.run_line_magic("load_ext", "opencode_magic")
    opencode_magic.load_ipython_extension(loaded)

    assert magics(loaded) is before


def test_reloading(loaded: InteractiveShell) -> None:
    """``%reload_ext`` gives fresh magics."""
    before = magics(loaded)

    loaded.run_line_magic("reload_ext", "opencode_magic")

    assert magics(loaded) is not before
    assert error_of(loaded, "%opencode_status") is None


def test_unloading_undoes_everything(shell: InteractiveShell) -> None:
    """After unloading the shell is as it was before: magics, events, configurables, threads."""

    def state() -> object:
        return (
            {kind: set(table) for kind, table in shell.magics_manager.magics.items()},
            set(shell.magics_manager.registry),
            {name: len(found) for name, found in shell.events.callbacks.items()},
            len(shell.configurables),
            threading.active_count(),
        )

    shell.run_line_magic("unload_ext", "opencode_magic")  # IPython registers this at its first use
    before = state()
    shell.run_line_magic("load_ext", "opencode_magic")
    loaded = state()
    magics(shell).session._starter = StandInStarter(StandInSandbox())
    shell.run_cell("%opencode_up")
    shell.run_line_magic("unload_ext", "opencode_magic")

    assert state() == before
    assert loaded != before


def test_unloading_takes_the_sandbox_down(loaded: InteractiveShell) -> None:
    """A sandbox does not outlive the magics that launched it."""
    sandbox = StandInSandbox()
    magics(loaded).session._starter = StandInStarter(sandbox)
    loaded.run_cell("%opencode_up")

    loaded.run_line_magic("unload_ext", "opencode_magic")

    assert sandbox.calls == ["terminate 10 keep True"]


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("%opencode_up --bogus", "unrecognized arguments: --bogus (%opencode_up? lists the flags)"),
        ("%opencode_up --home moon", "invalid choice: 'moon'"),
        ("%opencode_up --time soon", "'soon' is not a number of minutes from 1 to 1440"),
        ("%opencode_up --time 0", "'0' is not a number of minutes"),
        ("%opencode_up --map x", "'x' is not NAME=URL"),
        ('%opencode_up --model "open', "no closing quotation in '--model \"open'"),
        ("%opencode_prove now", "unrecognized arguments: now"),
        ("%opencode_status x", "unrecognized arguments: x"),
        ("%opencode_doctor x", "unrecognized arguments: x"),
        ("%opencode_down --all", "unrecognized arguments: --all"),
        ("%%ask --bogus\nhi", "unrecognized arguments: --bogus (%%ask? lists the flags)"),
        ("%%ask --help\nhi", "unrecognized arguments: --help (%%ask? lists the flags)"),
        ("%%ask -o\nhi", "expected one argument"),
        ("%%ask -o 1x\nhi", "'1x' cannot be the name of a variable"),
        ("%%ask -o class\nhi", "'class' cannot be the name of a variable"),
        ('%%ask -o "answer\nhi', "no closing quotation"),
        ("%%ask\n", "is empty"),
        ("%%ask\n   \n\n", "%%ask has no text"),
    ],
)
def test_bad_flags(
    loaded: InteractiveShell, capsys: pytest.CaptureFixture[str], cell: str, message: str
) -> None:
    """Whatever is wrong with a line is IPython's own UsageError: one line, no traceback."""
    error = error_of(loaded, cell)
    shown = capsys.readouterr()

    assert type(error) is UsageError
    assert message in str(error)
    assert (shown.out + shown.err).count("\n") == 1
    assert "Traceback" not in shown.out + shown.err


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        ("%%ask\nhello", NotLaunchedError),
        ("%opencode_prove", NotLaunchedError),
        ("%opencode_up --home local --model nobody/nothing", ProviderError),
        ("%opencode_up --home local --model anthropic", ProviderError),
        ("%opencode_up --home local --model amazon-bedrock/x", ProviderError),
        ("%opencode_up --home local --base-url http://plain.example/v1 --model x", ProviderError),
    ],
)
def test_our_errors_are_one_line(
    loaded: InteractiveShell, capsys: pytest.CaptureFixture[str], cell: str, kind: type
) -> None:
    """Our own errors are one line with the next step, and start nothing."""
    error = error_of(loaded, cell)
    shown = capsys.readouterr()
    lines = [line for line in (shown.out + shown.err).splitlines() if line]

    assert type(error) is kind
    assert len(lines) == 1
    assert "Next: " in lines[0]
    assert magics(loaded).session.status.phase == "down"


@pytest.mark.parametrize(
    ("said", "line"), [("", "all is well."), ("one may still run", "one may still run")]
)
def test_an_interrupt_says_what_it_knows(said: str, line: str) -> None:
    """What the exception says itself is shown; else what the caller says."""
    with pytest.raises(KeyboardInterrupt) as caught, interrupt_in_one_line("all is well."):
        raise KeyboardInterrupt(*([said] if said else []))

    shown = caught.value._render_traceback_()  # type: ignore[attr-defined]  # put there for IPython
    assert shown == [f"Interrupted: {line}"]


@pytest.mark.parametrize("name", [*LINE_MAGICS, "ask"])
def test_help(loaded: InteractiveShell, name: str) -> None:
    """The help of every magic says what it does and lists its flags, each with a text."""
    kind = "cell" if name == "ask" else "line"
    magic = loaded.find_magic(name, kind)
    assert magic is not None
    text = magic.__doc__ or ""

    assert f"%{name}" in text
    for action in magic.parser._actions:
        assert action.help
        assert action.option_strings[-1] in text


@pytest.mark.parametrize("name", [*LINE_MAGICS, "ask"])
def test_no_variable_is_expanded(loaded: InteractiveShell, name: str) -> None:
    """Braces and dollar signs on a line have no meaning: a secret cannot slip in."""
    magic = loaded.find_magic(name, "cell" if name == "ask" else "line")

    assert getattr(magic, "_ipython_magic_no_var_expand", False)
    assert not getattr(magic, "_ipython_magic_output_can_be_silenced", False)


def test_up_twice(loaded: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    """The second up says that it uses the sandbox again."""
    starter = StandInStarter(StandInSandbox())
    magics(loaded).session._starter = starter
    loaded.run_cell("%opencode_up")
    capsys.readouterr()

    loaded.run_cell("%opencode_up")

    assert starter.starts == 1
    assert "ocm-quiet-heron is up already and is used again." in capsys.readouterr().out


def test_up_with_another_model(loaded: InteractiveShell) -> None:
    """What is up is not passed off as what was asked for."""
    magics(loaded).session._starter = StandInStarter(StandInSandbox())
    loaded.run_cell("%opencode_up")

    assert type(error_of(loaded, "%opencode_up --home cloud")) is UsageMistake


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--strict", "is up without strict"),
        ("--time 30", "is up with a time limit of 15 min, not 30 min"),
        (
            "--map x.internal=http://127.0.0.1:1",
            "is up without the mapping x.internal=http://127.0.0.1:1",
        ),
        (
            "--base-url http://me:secret@plain.example/v1",
            "is up with the base URL \"the provider's own\", not 'http://plain.example/v1'",
        ),
    ],
)
def test_up_with_another_wish(loaded: InteractiveShell, flags: str, message: str) -> None:
    """No flag is dropped silently where a sandbox is up: what differs is named."""
    magics(loaded).session._starter = StandInStarter(StandInSandbox())
    loaded.run_cell("%opencode_up")

    error = error_of(loaded, f"%opencode_up {flags}")

    assert type(error) is UsageMistake
    assert message in str(error)
    assert error.next_step == "run %opencode_down first"


def test_up_again_with_the_same_flags(
    loaded: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same line again, or one that leaves flags out, uses the sandbox again."""
    magics(loaded).session._starter = StandInStarter(StandInSandbox())
    line = "%opencode_up --strict --time 30 --map x.internal=http://127.0.0.1:1"
    line = f"{line} --base-url https://x.internal/v1 --model scripted"
    loaded.run_cell(line)

    assert error_of(loaded, line) is None
    assert error_of(loaded, "%opencode_up") is None
    assert capsys.readouterr().out.count("is used again") == 2


def test_the_cards_of_a_round(loaded: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    """Up, prove, status and down each show what a person wants to know."""
    magics(loaded).session._starter = StandInStarter(StandInSandbox())

    loaded.run_cell("%opencode_up")
    up = capsys.readouterr().out
    loaded.run_cell("%opencode_prove")
    proof = capsys.readouterr().out
    loaded.run_cell("%opencode_status")
    status = capsys.readouterr().out
    loaded.run_cell("%opencode_down")
    down = capsys.readouterr().out

    assert "Locked" in up
    assert "example.com by name" in proof
    assert ": ocm-quiet-heron, local home, demo-model/scripted (scripted)" in status
    assert "the sandbox" in down
    assert magics(loaded).session.status.phase == "down"


def test_config(loaded: InteractiveShell) -> None:
    """``%config OpencodeMagics`` sets what the flags leave open."""
    loaded.run_cell("%config OpencodeMagics.model = 'nobody/nothing'")

    assert type(error_of(loaded, "%opencode_up --home local")) is ProviderError


def test_a_bad_setting(loaded: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A malformed environment variable is named in one line."""
    monkeypatch.setenv("OPENCODE_MAGIC_HOME", "moon")

    error = error_of(loaded, "%opencode_up")

    assert type(error) is SettingsError
    assert "moon" in str(error)


def test_a_reply_in_its_own_cell(
    loaded: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a terminal a reply is one short line in the cell that asked, and whole anywhere else."""
    replies = loaded.magics_manager.registry["AskMagics"].replies
    loaded.user_ns["asked"] = lambda: Reply(TURN, replies.shower())

    loaded.run_cell("answer = asked()\nanswer")
    own = capsys.readouterr().out
    loaded.run_cell("answer")
    later = capsys.readouterr().out
    loaded.run_cell("print(answer); [answer]")
    printed = capsys.readouterr().out

    assert own.endswith("<Reply: done in 2.3 s, 0 tokens>\n")
    assert "Hello." not in own
    assert "Hello." in later
    assert printed.startswith("Hello.\n")
    assert "[<Reply: done in 2.3 s, 0 tokens>]" in printed


def test_a_reply_without_the_extension(shell: InteractiveShell) -> None:
    """A reply that no notebook streamed shows its card as inert HTML and as text."""
    formatter = shell.display_formatter
    assert formatter is not None
    data, _ = formatter.format(Reply(TURN))

    assert set(data) == {"text/plain", "text/html"}
    assert "Hello." in data["text/plain"]


def test_a_sandbox_launched_before_loading(shell: InteractiveShell) -> None:
    """A sandbox that the Python functions launched is the magics' own once they are loaded."""
    before = api.session()

    shell.run_line_magic("load_ext", "opencode_magic")

    assert magics(shell).session is before


def test_the_functions_use_the_notebooks_session(loaded: InteractiveShell) -> None:
    """With the extension loaded the Python functions act on its session, and let go of it."""
    session = magics(loaded).session

    assert api.session() is session
    loaded.run_line_magic("unload_ext", "opencode_magic")
    assert api.session() is not session
    api.use(None)


def test_an_interrupted_down(
    loaded: InteractiveShell, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An Interrupt of ``%opencode_down`` is one line that says whether the sandbox is gone."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    session = magics(loaded).session
    session._starter = StandInStarter(StandInSandbox())
    loaded.run_cell("%opencode_up")
    monkeypatch.setattr(session, "stop_turn", interrupt)
    capsys.readouterr()

    error = error_of(loaded, "%opencode_down")
    shown = capsys.readouterr()

    assert type(error) is KeyboardInterrupt
    assert "Interrupted: the sandbox is removed all the same." in shown.out + shown.err
    assert "Traceback" not in shown.out + shown.err
    assert not session.is_up


def test_an_error_without_a_launch_shows_no_old_panel(
    loaded: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an earlier launch failed of is not shown above another error."""
    session = magics(loaded).session
    failure = SandboxLaunchError("no room", step="create", next_step="make room")
    session._starter = StandInStarter(StandInSandbox(), error=failure)
    loaded.run_cell("%opencode_up")
    first = capsys.readouterr()
    session._starter = None

    error = error_of(loaded, "%opencode_up --home local --model nobody/nothing")
    second = capsys.readouterr()

    assert "Failed" in first.out
    assert type(error) is ProviderError
    assert "Failed" not in second.out
    assert "no room" not in second.out + second.err
