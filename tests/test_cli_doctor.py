"""`gpt-trader doctor`, on machines and workspaces with something broken: each fault has its line and its remedy, and none a traceback."""
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAIN = "import sys; from gpt_trader.cli.main import main; sys.exit(main())"
# As if these distributions had been taken out of the environment.
WITHOUT = """
import importlib.metadata as md, sys
gone = set(sys.argv.pop(1).split(","))
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in gone:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Gone())
found = md.distribution
def distribution(name):
    if name.replace("-", "_") in gone:
        raise md.PackageNotFoundError(name)
    return found(name)
md.distribution = distribution
"""


def run(desk: Path, *words: str, program: str = MAIN, before: tuple[str, ...] = (), env: dict[str, str] | None = None,
        unset: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """The command, in the folder."""
    environment = {k: v for k, v in os.environ.items() if k not in unset} | {"PYTHONPATH": str(ROOT), "NO_COLOR": "1"} | (env or {})
    return subprocess.run([sys.executable, "-c", program, *before, "doctor", *words], cwd=desk, env=environment, capture_output=True,
                          text=True, timeout=200)


def examined(desk: Path, **how: Any) -> tuple[int, dict[str, dict[str, Any]]]:
    """(exit code, findings by name); the promises that always hold are checked here."""
    done = run(desk, "--json", **how)
    assert "Traceback" not in done.stdout + done.stderr and done.returncode in (0, 1, 2, 3), done.stderr
    told = json.loads(done.stdout)
    assert {"ok": 0, "warning": 1, "critical": 2, "unknown": 3}[told["status"]] == done.returncode
    for f in told["findings"]:
        assert f["status"] in ("ok", None) or f["mend"], f"no remedy: {f}"
    return done.returncode, {f["name"]: f for f in told["findings"]}


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A sound workspace."""
    from gpt_trader.core.workspace import Workspace

    root = tmp_path / "desk"
    with Workspace.create(root) as ws:
        assert ws.telemetry.version
    return root


def test_a_sound_workspace(desk: Path) -> None:
    code, found = examined(desk)
    assert code in (0, 1), [f for f in found.values() if f["status"] not in ("ok", None)]  # a port may be taken by another test
    always = ("Python", "base", "workspace", "layout", "writable", "disk", "state.db", "telemetry.db", "clock", "settings", "procedures")
    assert [found[name] for name in always if found[name]["status"] != "ok"] == []
    screen = run(desk).stdout
    for title in ("This machine", "Libraries", "Workspace", "Configuration", "Notebooks"):
        assert title in screen.splitlines()


def test_no_workspace_is_no_fault_until_one_is_named(tmp_path: Path) -> None:
    code, found = examined(tmp_path)
    assert code in (0, 1) and found["workspace"]["status"] is None and "gpt-trader init" in found["workspace"]["mend"]
    code, found = examined(tmp_path, env={"GPT_TRADER_HOME": str(tmp_path / "nowhere")})
    assert code == 2 and found["workspace"]["status"] == "critical"


def test_everything_broken_at_once(desk: Path) -> None:
    state = desk / ".gpt-trader"
    whole = (state / "telemetry.db").read_bytes()
    (state / "telemetry.db").write_bytes(whole[:4096] + b"\xff" * 8192 + whole[12288:])
    (state / "state.db").write_bytes(b"not a database at all, " * 1000)
    for name in ("state.db-wal", "state.db-shm", "telemetry.db-wal", "telemetry.db-shm"):
        (state / name).unlink(missing_ok=True)
    (state / "clock.json").write_text("{")
    (state / "workspace.json").write_text("[]")
    (desk / "config" / "risk.yaml").write_text("limits: [unclosed\n")
    shutil.rmtree(desk / "reports")
    (desk / "reports").write_text("a file where a folder should be")
    (desk / "procedures").mkdir()
    (desk / "procedures" / "broken.ipynb").write_text("{no json")
    code, found = examined(desk)
    assert code == 2
    for name in ("telemetry.db", "state.db", "clock", "layout", "settings", "writable"):
        assert found[name]["status"] == "critical", found[name]
    assert "restore-backup" in found["state.db"]["mend"] and "risk.yaml" in found["settings"]["answer"]
    assert found["notebook broken"]["status"] == "warning" and found["procedures"]["status"] == "ok"
    screen = run(desk)
    assert screen.returncode == 2 and screen.stderr == "" and screen.stdout.count("mend: ") >= 7


SLOW = pytest.mark.slow


@pytest.mark.parametrize("library", ["pydantic", *(pytest.param(name, marks=SLOW) for name in (
    "pandas", "lightgbm", "yaml", "orjson", "sqlite_utils", "papermill", "jupyter_client", "filelock"))])
def test_a_missing_library_of_the_base(desk: Path, library: str) -> None:
    distribution = {"yaml": "pyyaml"}.get(library, library)
    code, found = examined(desk, program=WITHOUT + MAIN, before=(f"{library},{distribution}",))
    assert code in ((2,) if library != "jupyter_client" else (2, 0, 1))
    if library != "jupyter_client":  # it comes with others
        line = found[distribution.replace("_", "-")]
        assert line["status"] == "critical" and "is missing" in line["answer"] and "gpt_trader" in line["mend"]


@pytest.mark.parametrize(("extra", "library"), [("notify", "apprise"), *(pytest.param(*pair, marks=SLOW) for pair in (
    ("telemetry", "prometheus_client"), ("lab", "jupyterlab"), ("dashboard", "voila"), ("keyring", "keyring"), ("portfolio", "skfolio"),
    ("garch", "arch"), ("profile", "pyinstrument"), ("search", "optuna"), ("serve", "uvloop"), ("docs", "sphinx")))])
def test_a_missing_extra_is_named_and_no_fault(desk: Path, extra: str, library: str) -> None:
    code, found = examined(desk, program=WITHOUT + MAIN, before=(library,))
    assert code in (0, 1) and found[extra]["status"] is None
    assert f"gpt_trader[{extra}]" in found[extra]["mend"] and library.replace("_", "-") in found[extra]["answer"]


def test_an_extra_that_the_settings_need(desk: Path) -> None:
    (desk / "config" / "config.yaml").write_text("notify:\n  channels:\n    ops:\n      url: env:DESK_CHANNEL\nlogging:\n  tracing: true\n")
    code, found = examined(desk, program=WITHOUT + MAIN, before=("apprise,opentelemetry_sdk",), env={"DESK_CHANNEL": "json://very-secret-host"})
    assert code == 2 and found["telemetry"]["status"] == "warning" and found["notify"]["status"] == "critical"
    assert found["config.notify.channels.ops.url"]["status"] == "ok"
    shown = run(desk, env={"DESK_CHANNEL": "json://very-secret-host"}).stdout + json.dumps(found)
    assert "very-secret-host" not in shown and "env:DESK_CHANNEL" in shown
    code, found = examined(desk)
    line = found["config.notify.channels.ops.url"]
    assert line["status"] == "critical" and "DESK_CHANNEL" in line["mend"]


def test_overrides_are_named_with_their_line(desk: Path) -> None:
    (desk / "config" / "risk.yaml").write_text("# ours\nlimits:\n  max_var: 40000\n")
    _, found = examined(desk)
    assert "risk.limits.max_var = 40000" in found["settings"]["answer"] and "risk.yaml:3" in found["settings"]["answer"]


def test_a_port_that_is_taken(desk: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (desk / "config" / "config.yaml").write_text(f"metrics:\n  port: {port}\n")
        code, found = examined(desk)
    assert code == 1 and found["metrics.port"]["status"] == "warning" and str(port) in found["metrics.port"]["answer"]


def test_without_home_and_without_a_terminal(desk: Path) -> None:
    code, _ = examined(desk, unset=("HOME", "TERM", "LANG"), env={"PATH": "/usr/bin:/bin"})
    assert code in (0, 1)
    done = run(desk, unset=("HOME", "TERM", "LANG"), env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    assert done.returncode in (0, 1) and done.stdout.isascii() and done.stderr == "", done.stderr


def test_a_folder_that_cannot_be_written(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import tempfile

    from gpt_trader.ops.doctor import check_writable

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    found = list(check_writable(desk))
    assert [f.status.exit_code for f in found] == [2, 2] and "read-only" in found[0].answer and found[0].mend


def test_help_says_what_it_is() -> None:
    done = subprocess.run([sys.executable, "-c", MAIN, "--help"], capture_output=True, text=True, timeout=60,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert "doctor" in done.stdout and "Say what is there, what is missing" in done.stdout
