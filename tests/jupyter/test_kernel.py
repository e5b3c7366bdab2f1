from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest

from tests.jupyter.kernels import Kernel, kernel_folder, running_kernel
from tests.scripted import script

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ASK = "%%ask -o answer\nList the files here, then fetch https://example.com and tell me about it."


@pytest.fixture(scope="module")
def kernel(seeded_cache: Path) -> Iterator[Kernel]:
    """Give a kernel in which the sandbox is up, on the local home."""
    with kernel_folder() as base, running_kernel(base, seeded_cache) as kernel:
        launched = kernel.run("%opencode_up")
        assert launched.error == ""
        assert "Locked" in launched.text
        yield kernel


def test_up_again(kernel: Kernel) -> None:
    """A second ``%opencode_up`` launches nothing, says so and shows the panel."""
    again = kernel.run("%opencode_up")

    assert "is up already and is used again" in again.stdout
    assert "Locked" in again.displays[0]["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in again.displays[1]


def test_an_ask(kernel: Kernel) -> None:
    """The reply stands under its cell once, with what the wall refused, and is the cell's value."""
    asked = kernel.run(ASK)
    text = kernel.run("print(answer is _)\nprint(answer.text)").stdout
    card = kernel.run("answer")

    assert asked.error == ""
    assert len(asked.displays) == 1
    assert "blocked example.com" in asked.text
    assert "scripted" in asked.text
    assert text.startswith("True\nI am the **scripted demo model**")
    assert len(card.displays) == 1
    assert card.displays[0]["text/plain"] == asked.displays[0]["text/plain"]
    assert "text/markdown" not in card.displays[0]


def test_the_receipt_is_from_the_firewall(kernel: Kernel) -> None:
    """The receipt names what this turn reached and what was blocked, and is complete."""
    kernel.run(f"%%ask -o one\n{script('webfetch https://blocked.example/x', 'say Done.')}")
    shown = kernel.run(
        "r = one.receipt\n"
        "print(r.source, r.is_complete, [h.host for h in r.reached], [h.host for h in r.blocked])"
    )

    assert shown.stdout == ("firewall record True ['demo-model.internal'] ['blocked.example']\n")


def test_an_interrupt(kernel: Kernel) -> None:
    """Interrupt stops the turn on the server, keeps what came, and goes on as an interrupt."""
    was_interrupted: list[float] = []

    def interrupt(shown: object) -> None:
        if "word" in str(shown) and not was_interrupted:
            was_interrupted.append(time.monotonic())
            kernel.interrupt()

    asked = kernel.run(f"%%ask -o part\n{script('slow 400 50ms')}", watch=interrupt)
    took_s = time.monotonic() - was_interrupted[0]
    kept = kernel.run("print(part.state, bool(part.text))")
    next_one = kernel.run(f"%%ask\n{script('say On.')}")

    assert asked.error_name == "KeyboardInterrupt"
    assert asked.error == "Interrupted: the turn is stopped, and what had come is kept."
    assert "stopped after" in asked.text
    assert took_s < 3
    assert kept.stdout == "stopped True\n"
    assert "On." in next_one.text


def test_a_failed_turn(kernel: Kernel) -> None:
    """A failed turn shows what came, keeps it, and raises one line."""
    asked = kernel.run(f"%%ask -o failed\n{script('status 401')}")
    kept = kernel.run("print(failed.state)")
    going = kernel.run(f"%%ask --keep-going\n{script('status 401')}")

    assert asked.error_name == "TurnFailed"
    assert asked.error.startswith("Turn failed: the provider refused the key (401)")
    assert "\n" not in asked.error
    assert len(asked.displays) == 1
    assert kept.stdout == "failed\n"
    assert going.error == ""


def test_a_permission_on_the_input_line(kernel: Kernel) -> None:
    """With ``--permissions ask`` the front end's input line asks, and a yes lets it run."""
    code = f"%%ask --permissions ask -o it\n{script('bash echo yes-it-ran', 'results')}"

    allowed = kernel.run(code, answer="once")
    refused = kernel.run(code, answer="no")
    nobody = kernel.run(code)
    kernel.run(f"%%ask --permissions allow\n{script('say Back.')}")

    assert "yes-it-ran" in allowed.text
    assert "Refused" in refused.text
    assert "Nobody can be asked here" in nobody.text


def test_under_time_and_capture(kernel: Kernel) -> None:
    """``%%time`` and ``%%capture`` around an ask work."""
    timed = kernel.run(f"%%time\n%%ask\n{script('say Timed.')}")
    captured = kernel.run(f"%%capture out\n%%ask\n{script('say Caught.')}")
    inside = kernel.run("print(['Caught.' in str(o.data) for o in out.outputs if o.data])")

    assert "Timed." in timed.text
    assert "Wall time" in timed.stdout
    assert captured.displays == []
    assert inside.stdout == "[True]\n"


def test_prove(kernel: Kernel) -> None:
    """``%opencode_prove`` leaves a table of probes with the wall's own evidence."""
    proved = kernel.run("%opencode_prove")

    assert "Proven" in proved.text
    assert "example.com by name" in proved.text
    assert "record" in proved.text
    assert "text/html" in proved.displays[0]


def test_status(kernel: Kernel) -> None:
    """``%opencode_status`` is one line, with its time, and the panel."""
    shown = kernel.run("%opencode_status")

    assert re.match(r"Locked at \d\d:\d\d:\d\d: ocm-", shown.stdout)
    assert shown.stdout.count("\n") == 1
    assert "demo-model/scripted (scripted)" in shown.stdout
    assert "Locked" in shown.displays[0]["text/plain"]


def test_doctor(kernel: Kernel) -> None:
    """``%opencode_doctor`` looks at everything and says how the sandbox is."""
    shown = kernel.run("%opencode_doctor")

    assert "is up and proven" in shown.text
    assert "Local home" in shown.text


def test_the_functions_act_on_the_same_sandbox(kernel: Kernel) -> None:
    """In a notebook the Python functions use the sandbox that the magics launched."""
    code = f"import opencode_magic as om\nr = om.ask({script('say Same.')!r})\nprint(r.text)"

    assert kernel.run(code).stdout == "Same.\n"
    assert kernel.run("print(om.status().phase)").stdout == "locked\n"
    assert "Same." in kernel.run("r").text


def test_no_secret_is_within_reach(kernel: Kernel) -> None:
    """Neither the user's names nor any repr holds the agent server's password."""
    code = (
        "import json, pathlib, os\n"
        "lease = next(pathlib.Path(os.environ['OPENCODE_MAGIC_STATE_DIR']).glob('leases/*.json'))\n"
        "word = json.loads(lease.read_text())['password']\n"
        "m = get_ipython().magics_manager.registry['OpencodeMagics']\n"
        "seen = repr((m, m.session, vars(m.session), m.session.agent, m.panels))\n"
        "print(len(word) > 20, word in seen, oct(lease.stat().st_mode & 0o777))"
    )

    assert kernel.run(code).stdout == "True False 0o600\n"


def test_the_kernel_is_left_clean(seeded_cache: Path) -> None:
    """``%opencode_down`` says what it did; unloading leaves no magic and no thread."""
    # What loads ahead ends by itself; before the launch it may still be at it.
    threads = (
        "import threading\n"
        "[t.join() for t in threading.enumerate() if t.name == 'opencode-warm']\n"
        "print(sorted(t.name for t in threading.enumerate()))"
    )
    with kernel_folder() as base, running_kernel(base, seeded_cache) as kernel:
        before = kernel.run(threads).stdout
        kernel.run("%opencode_up")
        kernel.run(f"%%ask\n{script('write hello.txt hi', 'say Done.')}")
        down = kernel.run("%opencode_down")
        again = kernel.run("%opencode_down")
        kernel.run("%opencode_up")
        kernel.run("%unload_ext opencode_magic")
        after = kernel.run("print(sorted(t.name for t in threading.enumerate()))").stdout
        gone = kernel.run("%opencode_status")
        kept = list((base / "state").rglob("hello.txt"))

    assert "Removed sandbox ocm-" in down.text
    assert "Kept the agent's files, for 7 days: " in down.text
    assert [path.parent.name for path in kept] == ["workspace"]
    assert str(kept[0].parent) in down.text
    assert "there was no sandbox" in again.text
    assert after == before
    assert "not found" in gone.stderr
