"""The fork server and the warm engine: the same outcome as an ordinary kernel, never needed, nothing left behind.

Most tests use a *bare* server, which has imported nothing: it is there at once, and its children do the same things, only slower.
"""
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from test_runbook_engine import COUNT, OPEN, PARAMETERS
from test_runbook_parameters import write

import gpt_trader
from gpt_trader.core.workspace import Workspace
from gpt_trader.runbook import engine, rendezvous
from gpt_trader.runbook.warm import Control, Limits

pytestmark = pytest.mark.skipif(not rendezvous.supported(), reason="a fork server needs Linux with pidfd")
ONLY = 'workspace: str = ""  # folder'


@pytest.fixture
def ws(tmp_path):
    with Workspace.create(tmp_path / "desk") as ws:
        yield ws


@pytest.fixture
def runtime(tmp_path_factory, monkeypatch):
    """A folder for servers of one test's own, none running; whatever it starts is stopped."""
    folder = tmp_path_factory.mktemp("run")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("GPT_TRADER_ENGINE", "warm")
    monkeypatch.setattr(engine, "start_server", lambda **kw: None)
    yield folder
    rendezvous.stop()


@pytest.fixture
def server(runtime):
    """A bare server's status."""
    found = rendezvous.start(wait=60, bare=True)
    assert found is not None
    return found


def finish(code: str, name: str = "try") -> tuple[str, str]:
    return OPEN.format(name), f"{code}\np.finish(Outcome('ok', 'done', {{'seen': seen}}))"


def until(condition, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


# ---------------------------------------------------------------- the same, either way
def test_warm_and_plain_give_the_same_outcome(ws, server, monkeypatch):
    write(ws.root / "procedures", "count", PARAMETERS, OPEN.format("count"), COUNT)
    warm = engine.run_procedure(ws, "count", {"at_least": 3})
    monkeypatch.setenv("GPT_TRADER_ENGINE", "plain")
    plain = engine.run_procedure(ws, "count", {"at_least": 3})
    assert (warm.engine, plain.engine) == ("warm", "plain") and warm.outcome == plain.outcome
    assert [json.loads((r.folder / "outcome.json").read_text())["engine"] for r in (warm, plain)] == ["warm", "plain"]
    assert ws.journal.check_projections() == []


def test_a_child_has_the_requesters_environment_and_nothing_of_the_servers(ws, server, monkeypatch):
    code = ("import os, subprocess, sys, threading\n"
            "seen = {'env': sorted(k for k in os.environ if k.startswith(('OMP_', 'OPENBLAS', 'JE_ARROW', 'TRY_'))), 'cwd': os.getcwd(),\n"
            "        'path': sys.path[:1], 'argv': sys.argv[0].endswith('ipykernel_launcher.py'), 'umask': oct(os.umask(0o22)),\n"
            "        'shell': subprocess.run(['printenv', 'TRY_THIS'], capture_output=True, text=True).stdout.strip()}")
    write(ws.root / "procedures", "try", ONLY, *finish(code))
    monkeypatch.setenv("TRY_THIS", "one")
    old = os.umask(0o027)
    try:
        warm = engine.run_procedure(ws, "try")
        monkeypatch.setenv("GPT_TRADER_ENGINE", "plain")
        plain = engine.run_procedure(ws, "try")
        monkeypatch.setenv("GPT_TRADER_ENGINE", "warm")
        monkeypatch.setenv("TRY_THIS", "two")
        again = engine.run_procedure(ws, "try")
    finally:
        os.umask(old)
    seen = warm.outcome.figures["seen"]
    assert warm.engine == again.engine == "warm" and seen == plain.outcome.figures["seen"]
    mine = sorted(k for k in os.environ if k.startswith(("OMP_", "OPENBLAS", "JE_ARROW", "TRY_")))  # and none of the server's
    assert seen["env"] == mine and seen["shell"] == "one" and again.outcome.figures["seen"]["shell"] == "two"


@pytest.mark.slow
def test_an_error_is_the_same_error(ws, server, monkeypatch):
    write(ws.root / "procedures", "try", ONLY, OPEN.format("try"), "p.require(False, 'workspace', 'is not to my taste')")
    warm = engine.run_procedure(ws, "try")
    monkeypatch.setenv("GPT_TRADER_ENGINE", "plain")
    plain = engine.run_procedure(ws, "try")
    assert warm.engine == "warm" and (warm.exit_code, warm.error) == (plain.exit_code, plain.error) and warm.exit_code == 64


# ---------------------------------------------------------------- never needed
def test_without_a_server_the_kernel_is_an_ordinary_one_and_a_server_is_asked_for(ws, runtime, monkeypatch):
    asked = []
    monkeypatch.setattr(engine, "start_server", lambda **kw: asked.append(kw))
    write(ws.root / "procedures", "count", PARAMETERS, OPEN.format("count"), COUNT)
    run = engine.run_procedure(ws, "count")
    assert run.engine == "plain" and run.exit_code == 0 and asked == [{"idle_minutes": 15.0, "unasked": True}]


@pytest.mark.slow
def test_a_server_that_is_killed_takes_no_run_with_it(ws, server):
    write(ws.root / "procedures", "try", ONLY, *finish(f"import os, time\nos.kill({server['pid']}, 9)\ntime.sleep(0.5)\nseen = 1"))
    run = engine.run_procedure(ws, "try")
    assert run.engine == "warm" and run.exit_code == 0 and run.outcome.figures["seen"] == 1
    assert rendezvous.status() is None
    assert engine.run_procedure(ws, "try").engine == "plain"


def test_a_kernel_that_is_killed_makes_the_outcome_unknown_and_the_server_goes_on(ws, server):
    write(ws.root / "procedures", "try", ONLY, *finish("import os\nos.kill(os.getpid(), 9)\nseen = 1"))
    run = engine.run_procedure(ws, "try")
    assert run.engine == "warm" and run.exit_code == 3 and "KernelDied" in run.outcome.summary and run.report.exists()
    until(lambda: rendezvous.status()["children"] == {})
    assert not [c for c in psutil.Process(server["pid"]).children() if c.status() == psutil.STATUS_ZOMBIE]


def test_a_kernel_dies_with_whoever_asked_for_it(server, tmp_path):
    code = ("import os, time\nfrom gpt_trader.runbook.rendezvous import ask\n"
            "child = ask({'op': 'kernel', 'argv': ['-f', 'k.json'], 'cwd': os.getcwd()}, [1, 2], env=dict(os.environ))\n"
            "print(child.pid, flush=True)\ntime.sleep(60)")
    asker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=tmp_path)
    pid = int(asker.stdout.readline())
    assert psutil.pid_exists(pid)
    asker.kill()
    asker.wait()
    until(lambda: rendezvous.status()["children"] == {})
    assert not psutil.pid_exists(pid)


# ---------------------------------------------------------------- one server, the right one, not for ever
def test_many_starters_make_one_server(runtime):
    found: list = []
    starters = [threading.Thread(target=lambda: found.append(rendezvous.start(wait=60, bare=True))) for _ in range(5)]
    for s in starters:
        s.start()
    for s in starters:
        s.join()
    assert len({f["pid"] for f in found}) == 1 and len(found) == 5


@pytest.mark.slow
def test_a_changed_package_gets_a_server_of_its_own_and_the_old_one_ends(runtime, tmp_path):
    left_out = shutil.ignore_patterns("__pycache__", "_data", "_modidx.py")
    shutil.copytree(Path(gpt_trader.__file__).parent, tmp_path / "gpt_trader", ignore=left_out)
    code = "from gpt_trader.runbook import rendezvous as r; print(r.start(wait=60, bare=True)['pid'])"
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def start() -> int:
        return int(subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)

    first = start()
    assert start() == first
    with (tmp_path / "gpt_trader" / "core" / "clock.py").open("a") as f:
        f.write("\n# edited\n")
    second = start()
    assert second != first
    until(lambda: not psutil.pid_exists(first))
    os.kill(second, signal.SIGTERM)
    until(lambda: not psutil.pid_exists(second))


def test_an_idle_server_ends(runtime):
    found = rendezvous.start(wait=60, bare=True, idle_minutes=0.02)
    until(lambda: not psutil.pid_exists(found["pid"]))
    assert rendezvous.status() is None and not list(runtime.rglob("*.sock"))


def test_a_server_that_cannot_start_is_not_tried_again_and_again(runtime):
    path = rendezvous.socket_path(os.environ)
    path.with_suffix(".failed").write_text("RuntimeError: an imported library started threads")
    with pytest.raises(rendezvous.Unavailable, match="not tried again for now: RuntimeError"):
        rendezvous.start(bare=True)


def test_nobody_starts_a_server_unasked_while_the_package_is_edited(runtime, monkeypatch):
    monkeypatch.setattr(rendezvous, "SETTLED", 1e12)
    assert rendezvous.start(unasked=True) is None and not list(runtime.rglob("*.lock"))


# ---------------------------------------------------------------- nobody else's
def test_the_folder_must_be_private_and_ours(runtime, monkeypatch):
    folder = rendezvous.private_directory()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o750)
    with pytest.raises(rendezvous.Unavailable, match="open to other users"):
        rendezvous.private_directory()
    folder.chmod(0o700)
    with monkeypatch.context() as m:
        m.setattr(rendezvous.os, "geteuid", lambda: 54321)
        with pytest.raises(rendezvous.Unavailable, match="belongs to another user"):
            rendezvous.private_directory()
    folder.rename(folder.with_name("real"))
    folder.symlink_to(folder.with_name("real"))
    with pytest.raises(rendezvous.Unavailable, match="is not a folder"):
        rendezvous.private_directory()
    folder.unlink()


def test_another_users_socket_is_refused(server, monkeypatch):
    path = Path(server["socket"])
    with monkeypatch.context() as m, pytest.raises(rendezvous.Unavailable, match="served by another user"):
        m.setattr(rendezvous.os, "geteuid", lambda: 54321)
        rendezvous.connect(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_users_request_is_refused(server):
    path = Path(server["socket"])
    code = ("import os, socket\nfrom gpt_trader.runbook import rendezvous as r\n"
            f"os.chdir({str(path.parent)!r})\nos.chmod('.', 0o711)\nos.chmod({path.name!r}, 0o777)\n"
            f"s = socket.socket(socket.AF_UNIX)\nos.setuid(65534)\ns.connect({path.name!r})\n"
            "try:\n    r.send(s, {'op': 'status'})\nexcept OSError:\n    pass  # sent away before it could ask\nprint(r.receive(s)[0])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    os.chmod(path.parent, 0o700)
    assert "request of user 65534 was refused" in done.stdout, done.stderr


# ---------------------------------------------------------------- limits, cancellation
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["warm", "plain"])
def test_limits_hold_in_both_kinds_of_kernel(ws, server, monkeypatch, kind):
    monkeypatch.setenv("GPT_TRADER_ENGINE", kind)
    write(ws.root / "procedures", "big", ONLY, *finish("held = bytearray(800_000_000)\nseen = len(held)", "big"))
    run = engine.run_procedure(ws, "big", control=Control(Limits(memory_mb=500)))
    assert run.engine == kind and run.exit_code == 3 and run.outcome.summary.startswith("MemoryError")
    write(ws.root / "procedures", "slow", ONLY, *finish("import time\ntime.sleep(60)\nseen = 1", "slow"))
    run = engine.run_procedure(ws, "slow", control=Control(Limits(cell_seconds=4)))
    assert run.engine == kind and run.exit_code == 3 and "a cell was stopped after 4 s" in run.outcome.summary and run.seconds < 40


@pytest.mark.slow
@pytest.mark.parametrize("way", ["thread", "file"])
def test_a_run_is_cancelled_and_its_evidence_filed(ws, server, way):
    write(ws.root / "procedures", "slow", ONLY, *finish("import time\ntime.sleep(60)\nseen = 1", "slow"))
    control = Control()

    def cancel() -> None:
        until(lambda: control.engine)
        time.sleep(0.5)
        if way == "file":
            assert engine.cancel_run(ws, "abc123", "cancelled by the desk")
        else:
            control.cancel("cancelled by the desk")

    thread = threading.Thread(target=cancel)
    thread.start()
    run = engine.run_procedure(ws, "slow", control=control, run_id="abc123")
    thread.join()
    assert run.exit_code == 130 and run.outcome.summary == "cancelled by the desk" and run.status == "unknown" and run.seconds < 40
    assert {p.name for p in run.folder.iterdir()} == {"notebook.ipynb", "outcome.json", "report.html"}
    assert not engine.cancel_run(ws, "abc123")
    assert [r["status"] for r in ws.store.rows("SELECT status FROM procedures")] == ["unknown"]


def test_progress_is_told(ws, server):
    write(ws.root / "procedures", "count", PARAMETERS, OPEN.format("count"), COUNT)
    told = []
    engine.run_procedure(ws, "count", control=Control(progress=told.append))
    assert [p.done for p in told][-1] == told[-1].total >= 4 and told[-1].engine == "warm"


# ---------------------------------------------------------------- the whole command
def command(*words: str, **kw) -> subprocess.CompletedProcess:
    program = str(Path(sys.executable).with_name("gpt-trader"))
    return subprocess.run([program, *words], capture_output=True, text=True, timeout=120, **kw)


@pytest.mark.slow
def test_a_command_run_by_a_driver_is_the_same_command(ws, server):
    write(ws.root / "procedures", "count", PARAMETERS, OPEN.format("count"), COUNT)
    for words in (["count", "--at-least", "3", "--json"], ["count", "--at-least", "x"],
                  ["no-such-thing"], ["config", "show", "no-such-key"]):
        before = rendezvous.status()["served"]
        warm = command(*words, cwd=ws.root)
        assert rendezvous.status()["served"] > before, "no driver was asked for"
        plain = command(*words, cwd=ws.root, env={**os.environ, "GPT_TRADER_ENGINE": "plain"})
        assert (warm.returncode, warm.stderr) == (plain.returncode, plain.stderr)
        if "--json" in words:
            warm_says, plain_says = json.loads(warm.stdout), json.loads(plain.stdout)
            assert warm_says["figures"] == plain_says["figures"] and (warm_says["engine"], plain_says["engine"]) == ("warm", "plain")
        else:
            assert warm.stdout == plain.stdout


@pytest.mark.slow
def test_ctrl_c_ends_a_driven_command_cleanly(ws, server):
    write(ws.root / "procedures", "slow", ONLY, *finish("import time\ntime.sleep(60)\nseen = 1", "slow"))
    program = str(Path(sys.executable).with_name("gpt-trader"))
    shell = subprocess.Popen([program, "slow"], cwd=ws.root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: list(ws.reports_dir.glob(".run-*/notebook.ipynb")), 60)
    time.sleep(1.5)
    shell.send_signal(signal.SIGINT)
    said, errors = shell.communicate(timeout=60)
    assert shell.returncode == 130 and "cancelled" in errors, (said, errors)
    [facts] = [json.loads(p.read_text()) for p in ws.reports_dir.glob("*/*/outcome.json")]
    assert facts["outcome"]["status"] == "unknown" and facts["exit_code"] == 130


def test_emergencies_and_help_ask_nobody(ws, server):
    before = rendezvous.status()["served"]
    assert command("--help").returncode == 0 and command("halt", "--help").returncode == 0
    assert command("engine", "status", cwd=ws.root).returncode == 0
    assert rendezvous.status()["served"] == before


def test_every_question_is_answered(server):
    """A server may have answered and gone before the asker has looked up from sending."""
    assert sum(rendezvous.status() is None for _ in range(500)) == 0


# ---------------------------------------------------------------- nothing is left
def holdings(pid: int) -> dict[str, int]:
    process = psutil.Process(pid)
    return {"files": process.num_fds(), "uss": process.memory_full_info().uss, "children": len(process.children())}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_runs_in_a_row_leave_nothing_behind(ws, runtime):
    """A hundred runs of the whole thing (1,000 with GPT_TRADER_SOAK=1): no process, no open file, no memory is left in server or runner."""
    runs = 1000 if os.environ.get("GPT_TRADER_SOAK") == "1" else 100
    server = rendezvous.start(wait=300)
    assert server is not None and server["threads"] == 1
    write(ws.root / "procedures", "count", PARAMETERS, OPEN.format("count"), COUNT)
    for i in range(runs):
        run = engine.run_procedure(ws, "count")
        assert (run.engine, run.exit_code) == ("warm", 0), run.outcome.summary
        shutil.rmtree(run.folder)
        if i == 19:
            until(lambda: rendezvous.status()["children"] == {} and rendezvous.status()["spare"])
            before = holdings(server["pid"]), holdings(os.getpid())
    until(lambda: rendezvous.status()["children"] == {} and rendezvous.status()["spare"])
    after = holdings(server["pid"]), holdings(os.getpid())
    assert rendezvous.status()["pid"] == server["pid"] and rendezvous.status()["threads"] == 1
    for was, now in zip(before, after, strict=True):
        assert now["files"] <= was["files"] and now["children"] <= was["children"], (before, after)
        assert now["uss"] - was["uss"] < 30e6 + 20e3 * runs, (before, after)
