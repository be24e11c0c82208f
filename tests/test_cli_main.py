"""The command line: what it costs to start, what it answers to mistakes, and that its flags are the notebooks' own parameters."""
import errno
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from test_runbook_parameters import write

from gpt_trader.cli import main as cli_main
from gpt_trader.cli.main import procedure_command, run_cli
from gpt_trader.cli.output import as_ours
from gpt_trader.core.outcome import Outcome, Status, StorageError
from gpt_trader.core.workspace import Workspace
from gpt_trader.runbook import engine
from gpt_trader.runbook.catalogue import Entry, catalogue
from gpt_trader.runbook.engine import Run

OPEN = ("from gpt_trader.core.outcome import Outcome\nfrom gpt_trader.runbook.procedure import open_procedure\n"
        "p = open_procedure('{}', globals())")


@pytest.fixture
def desk(tmp_path, monkeypatch):
    with Workspace.create(tmp_path / "desk") as ws:
        monkeypatch.setenv("GPT_TRADER_HOME", str(ws.root))
        yield ws


def answer(capsys, *words):
    code = run_cli(words)
    seen = capsys.readouterr()
    assert "Traceback" not in seen.out + seen.err
    return code, seen.out, seen.err


@pytest.fixture
def recorded(monkeypatch):
    """The runner, but for the kernel: what it would have been asked for. (Real runs are in test_runbook_engine.py.)"""
    calls = []

    def run_procedure(ws, name, params=None, *, text=False, **more):
        from gpt_trader.runbook.catalogue import find

        entry = find(name, ws.root)
        values = entry.declaration.validate(params or {}, text=text)
        calls.append((name, {k: v for k, v in values.items() if k != "workspace"}))
        outcome = Outcome(Status.WARNING, "few entries", {"n": 12, "accuracy": 0.61}, ("health_check",))
        return Run("abc", name, name, outcome, Path("/r"), values, "2013-03-01T21:05:00.000000Z", 1.0, outcome.exit_code,
                   {"seq": 7, "hash": "ab"}, None, entry.notice)

    monkeypatch.setattr(engine, "run_procedure", run_procedure)
    return calls


def test_help_imports_nothing_heavy_and_lists_every_procedure():
    heavy = ("pandas", "numpy", "papermill", "nbformat", "nbconvert", "jupyter_client", "IPython", "sqlite_utils", "lightgbm", "plotly",
             "scipy", "pydantic")
    code = ("import sys; from gpt_trader.cli.main import run_cli; code = run_cli(['--help']);"
            f"print('LOADED', [m for m in {heavy} if m in sys.modules]); sys.exit(code)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "LOADED []" in done.stdout
    for entry in catalogue().values():
        assert entry.command in done.stdout


def test_every_procedures_help_names_each_flag_in_both_spellings():
    for entry in catalogue().values():
        command = procedure_command(entry)
        text = command.get_help(click.Context(command, info_name=entry.command))
        for p in entry.declaration.parameters:
            if p.name not in ("workspace", "execute"):
                assert p.flag in text, (entry.name, p.flag)
        flags = {o for option in command.params for o in option.opts}
        assert {"--json", "--workspace"} <= flags and ("--execute" in flags) == (entry.declaration.parameter("execute") is not None)
        assert all("--" + p.name in flags for p in entry.declaration.parameters if p.name not in ("workspace", "execute"))


@pytest.mark.parametrize("words", [["--last-hours", "24"], ["--last_hours", "24"], ["--last-hours=24"]])
def test_dashes_and_underscores_are_alike(desk, capsys, recorded, words):
    write(desk.root / "procedures", "look_back", "workspace: str = ''  # folder\nlast_hours: float = 1  # window")
    for name in ("look-back", "look_back"):
        assert answer(capsys, name, *words)[0] == 1
    assert answer(capsys, "run", "look-back", "-p", "last-hours=24")[0] == 1
    assert recorded == [("look_back", {"last_hours": 24.0})] * 3


def test_flags_lists_and_execution(desk, capsys, recorded):
    write(desk.root / "procedures", "clear",
          "workspace: str = ''  # folder\nfull: bool = False  # all\nsymbols: list[str] = []  # which\nexecute: bool = False  # do it",
          OPEN.format("clear").replace("globals())", "globals(), mutates=True)"))
    answer(capsys, "clear", "--full", "--symbols", "AAPL", "--symbols", "IBM,MSFT")
    answer(capsys, "clear", "--no-full", "--execute")
    answer(capsys, "clear", "--yes")
    answer(capsys, "clear", "--dry-run")
    assert [(c["full"], c["symbols"], c["execute"]) for _, c in recorded] == [
        (True, ["AAPL", "IBM", "MSFT"], False), (False, [], True), (False, [], True), (False, [], False)]
    code, _, err = answer(capsys, "clear", "--execute", "--dry-run")
    assert code == 64 and "exclude each other" in err and len(recorded) == 4


def test_the_outcome_is_printed_for_people_and_for_scripts(desk, capsys, recorded):
    write(desk.root / "procedures", "look", "workspace: str = ''  # folder")
    code, out, err = answer(capsys, "look")
    assert code == 1 and "WARNING" in out and "0.61" in out and "gpt-trader health-check" in out and "\x1b" not in out
    assert "is the workspace's own" in err, "an own notebook is announced at every run"
    code, out, _ = answer(capsys, "look", "--json")
    facts = json.loads(out)
    assert code == facts["exit_code"] == 1 and facts["figures"] == {"n": 12, "accuracy": 0.61} and facts["journal"]["seq"] == 7


@pytest.mark.parametrize("words, parts", [
    (["helth-check"], ["there is no command 'helth-check'", "health-check"]),
    (["show", "helth_check"], ["health_check"]),
    (["run", "helth_check"], ["health_check"]),
    (["health-check", "--fulll"], ["--full"]),
    (["validate-data-quality", "surplus"], ["surplus"]),
    (["check-model-performance", "--last-hours", "a-day"], ["last_hours: 'a-day' is not a number"]),
    (["run", "check_model_performance", "-p", "last_hour=24"], ["did you mean 'last_hours'"]),
    (["config", "shwo"], ["shwo"]),
    (["--worksapce", "x", "list"], ["--workspace"]),
])
def test_a_mistake_is_one_line_with_the_nearest_and_code_64(desk, capsys, words, parts):
    code, _, err = answer(capsys, *words)
    assert code == 64 and err.count("\n") == 1
    for part in parts:
        assert part in err
    assert desk.journal.head().seq == 1, "nothing was run"


def test_troubles_of_the_disk_the_user_and_the_unforeseen(desk, capsys, monkeypatch):
    for number, words in ((errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "permission denied")):
        found = as_ours(OSError(number, "x", "/desk/f"))
        assert isinstance(found, StorageError) and words in str(found) and "/desk/f" in str(found)

    def fail(error):
        def _open(*_):
            raise error
        monkeypatch.setattr(cli_main, "_open", _open)

    fail(OSError(errno.ENOSPC, "No space left on device", "/desk/state.db"))
    assert answer(capsys, "metrics")[0] == 74
    fail(KeyboardInterrupt())
    assert answer(capsys, "metrics")[0] == 130
    fail(RuntimeError("first\nsecond"))
    code, _, err = answer(capsys, "metrics")
    assert code == 3 and err.count("\n") == 1 and "second" in err and "GPT_TRADER_DEBUG=1" in err
    monkeypatch.setenv("GPT_TRADER_DEBUG", "1")
    run_cli(["metrics"])
    assert "Traceback" in capsys.readouterr().err


def test_a_rewritten_journal_is_critical(desk, capsys):
    assert answer(capsys, "journal", "verify")[0] == 0
    folder = desk.reports_dir / "2013-03-01" / "210500-x-1"
    folder.mkdir(parents=True)
    (folder / "outcome.json").write_text(json.dumps({"journal": {"seq": 1, "hash": "0" * 64}, "started_at": "2013-03-01T21:05:00.000000Z"}))
    code, out, _ = answer(capsys, "journal", "verify", "--json")
    assert code == 2 and "rewritten" in json.loads(out)["summary"]


def test_without_a_workspace_the_command_that_makes_one_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("GPT_TRADER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    code, _, err = answer(capsys, "health-check")
    assert code == 64 and "gpt-trader init" in err
    assert answer(capsys, "list")[0] == 0 and answer(capsys, "show", "health-check")[0] == 0


def test_a_broken_notebook_does_not_take_the_help_with_it(desk, capsys):
    (desk.root / "procedures").mkdir()
    (desk.root / "procedures" / "broken.ipynb").write_text("{")
    code, out, _ = answer(capsys, "--help")
    assert code == 0 and "cannot be used" in out and "health-check" in out
    assert answer(capsys, "broken")[0] == 78


def test_a_click_command_is_built_for_every_kind(tmp_path):
    from test_runbook_parameters import CELL

    entry = Entry("send", "appendix", write(tmp_path, "send", CELL))
    text = procedure_command(entry).get_help(click.Context(procedure_command(entry), info_name="send"))
    for part in ("low|high|critical", "NUMBER", "--full / --no-full", "[required]", "default: AAPL,IBM", "A,B"):
        assert part in text
