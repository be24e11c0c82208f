"""`gpt-trader new`: what it writes runs as it is, and passes the gate as it is."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAIN = "import sys; from gpt_trader.cli.main import main; sys.exit(main())"
KINDS = {"check-margin": ("procedure",), "tidy-up": ("procedure", "--acts"), "week-in-figures": ("report",), "margin-call": ("playbook",)}


def said(parameter: object) -> str | None:
    """A test's name: the words of the command line."""
    return " ".join(parameter) if isinstance(parameter, tuple) and all(isinstance(w, str) for w in parameter) else None


def command(*words: str, cwd: Path, package: Path = ROOT, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    """gpt-trader, from the package in the folder `package`."""
    environment = os.environ | {"PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"}
    return subprocess.run([sys.executable, "-c", MAIN, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty workspace with a new notebook of each kind in it."""
    root = tmp_path_factory.mktemp("desk")
    assert command("init", ".", cwd=root).returncode == 0
    for name, kind in KINDS.items():
        made = command("new", kind[0], name, *kind[1:], cwd=root)
        assert made.returncode == 0 and made.stderr == "", made.stderr
        assert made.stdout.splitlines()[0] == str(root / "procedures" / f"{name.replace('-', '_')}.ipynb")
    return root


def test_each_is_a_command_with_its_help(desk: Path) -> None:
    listed = command("list", "--json", cwd=desk)
    own = {row["command"]: row["from"] for row in json.loads(listed.stdout) if row["from"] == "workspace"}
    assert sorted(own) == sorted(KINDS)
    helped = command("tidy-up", "--help", cwd=desk)
    assert helped.returncode == 0 and "--execute" in helped.stdout and "--keep" in helped.stdout
    assert "--execute" not in command("check-margin", "--help", cwd=desk).stdout


@pytest.mark.slow
@pytest.mark.parametrize(("words", "exit_codes"), [
    (("check-margin",), (0,)), (("check-margin", "--kind", "order."), (1,)),
    (("tidy-up",), (0,)), (("tidy-up", "--keep", "1", "--execute"), (0,)),
    (("week-in-figures",), (3,)),  # an empty workspace has closed no session: not known
    (("margin-call",), (1, 2, 3)),  # an empty desk is not a healthy one
    (("check-margin", "--last-hours", "0"), (64,)), (("tidy-up", "--keep", "-1"), (64,))], ids=said)
def test_each_runs_at_once(desk: Path, words: tuple[str, ...], exit_codes: tuple[int, ...]) -> None:
    cache = desk / ".gpt-trader" / "cache"
    for name in ("one", "two"):
        (cache / name).write_text("x")
    done = command(*words, "--json", cwd=desk)
    assert done.returncode in exit_codes and "Traceback" not in done.stderr, done.stdout + done.stderr
    told = json.loads(done.stdout)
    if done.returncode < 64:
        assert told["error"] is None, told
    if words[0] == "tidy-up" and "-1" not in words:
        acted = "--execute" in words
        assert told["verification"] == ("verified" if acted else None)
        assert len(list(cache.iterdir())) == (1 if acted else 2)


@pytest.mark.slow
def test_a_feature_runs_outside_any_workspace_too(desk: Path, tmp_path: Path) -> None:
    assert command("new", "feature", "mean-gap", cwd=desk).returncode == 0
    alone = shutil.copy(desk / "research" / "mean_gap.ipynb", tmp_path)
    for notebook in (desk / "research" / "mean_gap.ipynb", alone):
        ran = subprocess.run([sys.executable, "-m", "papermill", notebook, tmp_path / "out.ipynb", "-k", "python3", "--no-progress-bar"],
                             cwd=Path(notebook).parent, capture_output=True, text=True, timeout=280)
        assert ran.returncode == 0, ran.stderr[-3000:]


@pytest.mark.parametrize(("words", "reason"), [
    (("procedure", "list"), "means something else already"), (("procedure", "health-check"), "there is health_check already"),
    (("procedure", "Check Margin"), "cannot be a name"), (("procedure", "../outside"), "cannot be a name"),
    (("procedure", "new"), "something else"), (("procedure", "import"), "something else"),
    (("feature", "ret_1"), "there is ret_1 already"), (("report", "r", "--acts"), "only looks"),
    (("report", "r", "--chapter", "appendix"), "only a procedure in the checkout"), (("notebook", "x"), "is not one of")], ids=said)
def test_names_and_places_that_will_not_do(desk: Path, words: tuple[str, ...], reason: str) -> None:
    before = sorted(desk.rglob("*.ipynb"))
    done = command("new", *words, cwd=desk)
    assert done.returncode == 64 and reason in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert sorted(desk.rglob("*.ipynb")) == before


def test_nothing_is_overwritten(desk: Path) -> None:
    path = desk / "procedures" / "check_margin.ipynb"
    before = path.read_bytes()
    done = command("new", "report", "check-margin", cwd=desk)
    assert done.returncode == 64 and "already" in done.stderr and path.read_bytes() == before
    near = command("new", "procedure", "check-margins", cwd=desk)
    assert near.returncode == 0 and "there is check_margin already" in near.stderr
    (desk / "procedures" / "check_margins.ipynb").unlink()


def test_without_a_workspace_it_says_how_to_make_one(tmp_path: Path) -> None:
    done = command("new", "procedure", "check-margin", cwd=tmp_path)
    assert done.returncode == 64 and "gpt-trader init" in done.stderr


@pytest.mark.slow
def test_in_the_checkout_they_pass_the_gate_as_they_are(tmp_path: Path) -> None:
    """In a copy of the tree: the structure tests, ruff, and the catalogue."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("settings.ini", "setup.py", "pyproject.toml", "README.md"):
        shutil.copy2(ROOT / name, tree)
    for name in ("nbs", "gpt_trader"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "_notebooks"))
    (tree / "tests").mkdir()
    shutil.copy2(ROOT / "tests" / "test_structure.py", tree / "tests")
    for name, kind in {**KINDS, "mean-gap": ("feature",)}.items():
        made = command("new", *kind[:1], name, *kind[1:], "--json", cwd=tree / "nbs", package=tree)
        assert made.returncode == 0, made.stderr
        assert Path(json.loads(made.stdout)["path"]).is_relative_to(tree / "nbs")
    in_chapter = command("new", "procedure", "slow-orders", "--chapter", "troubleshooting", cwd=tree, package=tree)
    assert in_chapter.returncode == 0 and (tree / "nbs" / "procedures" / "troubleshooting" / "slow_orders.ipynb").is_file()
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"}
    for gate in ([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_structure.py"],
                 [Path(sys.executable).with_name("ruff"), "check", "--no-cache", "nbs"]):
        done = subprocess.run(gate, cwd=tree, env=environment, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
