"""The server's life: one per folder, its own end, and what it leaves after any end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from vercel.sandbox import sync as sdk

from tests.local.servers import LocalServer, processes_with, wait_for

GONE_S = 2.0
"""After a crash of the server, nothing of a sandbox may be left so long after."""


def launch(server: LocalServer, name: str = "crash") -> None:
    client = server.client()
    box = client.create_sandbox(
        name=name,
        ports=[4096],
        persistent=False,
        execution_time_limit=timedelta(minutes=5),
        env={"MARK": f"mark-{server.base.name}"},
    )
    box.fs.write_text("work.txt", "work")
    box.create_process("sleep", ["300"])
    client.close()


def descendants(pid: int) -> list[int]:
    """Give the processes that a process started, and those that these started."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        with contextlib.suppress(OSError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(folder.name))
    found = list(children.get(pid, []))
    for child in found:
        found.extend(children.get(child, []))
    return found


def running_in(server: LocalServer) -> list[int]:
    """Everything but the server that it started, or that knows its folders."""
    assert server.process is not None
    started = descendants(server.process.pid)
    return started + [
        pid for pid in processes_with(server.base.name) if pid not in {*started, server.process.pid}
    ]


def test_only_the_user_may_open_the_socket(server: LocalServer) -> None:
    """Socket, state file and folders are the user's alone."""
    modes = {
        name: stat.S_IMODE((server.base / name).stat().st_mode)
        for name in ("run", "run/api.sock", "run/server.json", "state")
    }

    assert modes == {
        "run": 0o700,
        "run/api.sock": 0o600,
        "run/server.json": 0o600,
        "state": 0o700,
    }


def test_state_file_says_what_runs(server: LocalServer) -> None:
    """The state file has all that a client needs."""
    assert server.process is not None
    assert set(server.state) >= {
        "pid", "socket", "token", "version", "protocol", "started_ms", "demo_model_url",
        "opencode_version",
    }  # fmt: skip
    assert (server.state["pid"], server.state["protocol"]) == (server.process.pid, 1)


def test_second_server_ends_quietly(server: LocalServer) -> None:
    """A server on a folder that has one leaves it alone and ends with 0."""
    before = (server.runtime_dir / "server.json").read_bytes()
    second = server.spawn()

    assert second.wait(20) == 0
    assert (server.runtime_dir / "server.json").read_bytes() == before
    assert server.ask("GET", "/local/info").status == 200


def test_next_server_waits_for_one_that_ends(fresh_server: LocalServer) -> None:
    """A server that is started while another one ends takes over from it."""
    launch(fresh_server)
    first = fresh_server.process
    assert first is not None
    first.send_signal(signal.SIGTERM)
    wait_for(lambda: not (fresh_server.runtime_dir / "server.json").exists(), 10, step_s=0.001)
    fresh_server.start()

    assert first.wait(20) == 0
    assert fresh_server.ask("GET", "/local/info").status == 200


@pytest.mark.parametrize("token", ["", "wrong"])
def test_wrong_token_is_401(server: LocalServer, token: str) -> None:
    """Who has no token learns nothing, not even which routes there are."""
    answers = [server.ask("GET", path, token=token) for path in ("/v2/sandboxes", "/nowhere")]

    assert [(answer.status, answer.code) for answer in answers] == [(401, "unauthorized")] * 2


def test_idle_server_ends() -> None:
    """A server that nobody asks ends by itself and removes its socket."""
    running = LocalServer.make(("--idle-s", "0.4"))
    running.start()
    wait_for(lambda: running.is_over, 10)
    left = sorted(path.name for path in running.runtime_dir.iterdir())
    running.close()

    assert running.process is not None
    assert (running.process.returncode, left) == (0, ["server.lock"])


def test_server_with_a_sandbox_is_not_idle() -> None:
    """A sandbox that runs keeps its server."""
    running = LocalServer.make(("--idle-s", "0.3"))
    running.start()
    launch(running)
    wait_for(lambda: running.is_over, 1.5)
    is_over = running.is_over
    running.close()

    assert not is_over


def test_terminate_ends_everything(fresh_server: LocalServer) -> None:
    """On SIGTERM all sandboxes end before the server does; their files stay."""
    launch(fresh_server)
    code = fresh_server.terminate()
    files = list(fresh_server.state_dir.glob("boxes/*/home/work.txt"))

    assert (code, running_in(fresh_server), len(files)) == (0, [], 1)


def test_shutdown_over_the_api(fresh_server: LocalServer) -> None:
    """The server ends when it is asked to."""
    launch(fresh_server)
    answer = fresh_server.ask("POST", "/local/shutdown")
    wait_for(lambda: fresh_server.is_over, 10)

    assert (answer.status, fresh_server.is_over, running_in(fresh_server)) == (200, True, [])


def test_destroying_the_last_sandbox_leaves_only_the_server(fresh_server: LocalServer) -> None:
    """Right after the last sandbox ended there is no process but the server's own."""
    wait_for(lambda: bool(running_in(fresh_server)), 5)
    spare = running_in(fresh_server)
    launch(fresh_server)
    fresh_server.ask("DELETE", "/v2/sandboxes/crash?discard=true")

    assert spare
    assert running_in(fresh_server) == []


def test_spare_comes_back(fresh_server: LocalServer) -> None:
    """A while after the last sandbox ended the next one is ready again."""
    launch(fresh_server)
    fresh_server.ask("DELETE", "/v2/sandboxes/crash?discard=true")
    wait_for(lambda: bool(running_in(fresh_server)), 10, step_s=0.2)

    assert running_in(fresh_server)


def test_crash_leaves_nothing_running(fresh_server: LocalServer) -> None:
    """After kill -9 of the server its sandboxes end by themselves."""
    launch(fresh_server)
    before = running_in(fresh_server)
    fresh_server.kill()
    wait_for(lambda: not running_in(fresh_server), GONE_S)

    assert before
    assert running_in(fresh_server) == []


def test_restart_after_a_crash_tells_the_truth(fresh_server: LocalServer) -> None:
    """A restarted server lists what was there as ended, and keeps its files when it is removed."""
    launch(fresh_server)
    fresh_server.kill()
    fresh_server.start()
    client = fresh_server.client()
    found = client.get_sandbox(name="crash")
    found.destroy()
    client.close()
    info = fresh_server.ask("GET", "/local/info").json()
    kept = info["kept"]

    assert found.status == sdk.SandboxStatus.ABORTED
    assert running_in_after_start(fresh_server) == []
    assert isinstance(kept, list)
    assert [(item["name"], item["files"]) for item in kept] == [("crash", 1)]


def running_in_after_start(server: LocalServer) -> list[int]:
    """Sandboxes' processes, which carry the sandbox's variable; a spare keeper has none."""
    return processes_with(f"mark-{server.base.name}")


def test_disk_and_log_hold_no_secret(fresh_server: LocalServer) -> None:
    """Injected values, environment values and the token are on no disk but the state file's."""
    rule = sdk.NetworkPolicyRule(
        transform=[sdk.NetworkPolicyTransform(headers={"authorization": "Bearer planted-value"})]
    )
    client = fresh_server.client()
    box = client.create_sandbox(
        name="secrets",
        persistent=False,
        network_policy=sdk.NetworkPolicy.custom(allow={"api.example.com": [rule]}),
        env={"HELD": "planted-variable"},
    )
    box.run_process("true", env={"HELD": "planted-variable"})
    box.destroy()
    client.close()
    words = (b"planted-value", b"planted-variable", fresh_server.token.encode())
    files = [path for path in fresh_server.state_dir.rglob("*") if path.is_file()]
    found = [path for path in files for word in words if word in path.read_bytes()]

    assert files
    assert found == []


def test_delete_keeps_the_files_unless_discarded(server: LocalServer) -> None:
    """The agent's files outlive a sandbox, except where the user said otherwise."""
    for name in ("kept-one", "lost-one"):
        launch(server, name)
    first = server.ask("DELETE", "/v2/sandboxes/kept-one").json()["kept"]
    second = server.ask("DELETE", "/v2/sandboxes/lost-one?discard=true").json()

    assert isinstance(first, dict)
    assert (first["files"], "kept" in second) == (1, False)
    assert (server.state_dir / "kept/kept-one/files/work.txt").read_text() == "work"
    assert not list(server.state_dir.glob("boxes/*/home/*"))


def test_client_may_say_that_nothing_is_kept(server: LocalServer) -> None:
    """Who has the files already, or wants none, says so before the SDK's own delete."""
    launch(server, "told")
    said = server.ask("POST", "/local/sandboxes/told/keep", {"keep": False})
    unknown = server.ask("POST", "/local/sandboxes/nobody/keep", {"keep": False})
    body = server.ask("DELETE", "/v2/sandboxes/told").json()

    assert (said.status, unknown.status, "kept" in body) == (200, 404, False)


def test_sandbox_whose_keeper_dies_is_ended(server: LocalServer) -> None:
    """A sandbox that dies on its own is noticed, and listed with why."""
    launch(server, "dying")
    pids = processes_with(f"mark-{server.base.name}")
    for pid in keepers_of(pids[0]):
        os.kill(pid, signal.SIGKILL)

    def status() -> object:
        sandbox = server.ask("GET", "/v2/sandboxes/dying").json()["sandbox"]
        return sandbox["status"] if isinstance(sandbox, dict) else ""

    wait_for(lambda: status() == "stopped", 5)
    stopped = server.ask("GET", "/local/info").json()["stopped"]
    server.ask("DELETE", "/v2/sandboxes/dying?discard=true")

    assert isinstance(stopped, list)
    assert [item["reason"] for item in stopped if item["name"] == "dying"] == ["its keeper ended"]


def keepers_of(pid: int) -> list[int]:
    """The processes above one of a sandbox, up to the server: of the sandbox, all of them."""
    above: list[int] = []
    while True:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        if b"opencode_magic.local\0serve" in Path(f"/proc/{pid}/cmdline").read_bytes():
            return above
        above.append(pid)


def test_much_output_takes_little_memory(fresh_server: LocalServer) -> None:
    """Output is kept on disk: neither keeping nor replaying it fills the server's memory."""
    client = fresh_server.client()
    box = client.create_sandbox(name="loud", persistent=False)
    process = box.create_process("sh", ["-c", "head -c 150000000 /dev/zero | tr '\\0' x"])
    process.wait()
    box.run_process("true")
    before_kb = memory_peak_kb(fresh_server)
    path = f"/api/v2/sandboxes/sessions/{box.current_session_id}/cmd/{process.id}/logs"
    with closing(fresh_server.connection()) as connection:
        connection.request("GET", path, headers={"authorization": f"Bearer {fresh_server.token}"})
        response = connection.getresponse()
        size = sum(len(piece) for piece in iter(lambda: response.read(1 << 20), b""))
    after_kb = memory_peak_kb(fresh_server)
    client.close()

    assert size > 150_000_000
    assert after_kb < before_kb + 60_000
    assert before_kb < 150_000


def memory_peak_kb(server: LocalServer) -> int:
    assert server.process is not None
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def test_list_and_stop_commands(fresh_server: LocalServer) -> None:
    """The command line shows what runs, and ends it."""

    def command(word: str) -> str:
        argv = [sys.executable, "-m", "opencode_magic.local", word]
        argv += ["--runtime-dir", str(fresh_server.runtime_dir)]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    launch(fresh_server)
    listed = json.loads(command("list"))
    command("stop")
    wait_for(lambda: fresh_server.is_over, 10)

    assert [item["name"] for item in listed["sandboxes"]] == ["crash"]
    assert fresh_server.is_over
    assert command("list") == "No local server runs.\n"


def test_long_socket_path_is_one_clear_line(tmp_path: Path) -> None:
    """A path that no socket can have is refused with what to do."""
    deep = tmp_path / ("long-" * 30)
    argv = [sys.executable, "-m", "opencode_magic.local", "serve"]
    argv += ["--runtime-dir", str(deep), "--state-dir", str(tmp_path / "state")]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)

    assert done.returncode == 1
    assert "OPENCODE_MAGIC_RUNTIME_DIR" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_lost_runtime_folder_ends_the_server(fresh_server: LocalServer) -> None:
    """A server that nobody can find any more ends."""
    launch(fresh_server)
    for path in fresh_server.runtime_dir.iterdir():
        path.unlink()
    wait_for(lambda: fresh_server.is_over, 10)

    assert fresh_server.is_over
    assert running_in(fresh_server) == []


def test_cloud_stand_in_has_no_extras(tcp_server: LocalServer) -> None:
    """Over TCP there are no local routes, and the token is another file's."""
    token_mode = stat.S_IMODE(os.stat(tcp_server.base / "token").st_mode)  # noqa: PTH116 - the mode alone
    answer = tcp_server.ask("GET", "/local/info")

    assert (answer.status, answer.code, token_mode) == (404, "not_found", 0o600)
    assert tcp_server.state["demo_model_url"] == ""


def test_cloud_stand_in_refuses_a_way_to_this_machine(tcp_server: LocalServer) -> None:
    """A forward URL to loopback is refused over TCP."""
    policy = {"allow": {"demo-model.internal": [{"forwardURL": "http://127.0.0.1:1"}]}}
    body = {"projectId": "local", "name": "mapped", "networkPolicy": policy}
    answer = tcp_server.ask("POST", "/v3/sandboxes", body)

    assert (answer.status, answer.code) == (400, "bad_request")


def test_cloud_stand_in_runs_sandboxes(tcp_server: LocalServer) -> None:
    """Over TCP the same calls work, and there is no OpenCode inside."""
    client = tcp_server.client()
    with client.create_sandbox(name="far", persistent=False) as box:
        found = box.run_process("sh", ["-c", "command -v opencode"], capture_output=True)
    client.close()

    assert (found.returncode, found.stdout) == (127, "")
