"""Runs: the same rules and the same outcome however a notebook is run; evidence whole or not at all.

Each test starts kernels: few and short.
"""
import hashlib
import json
import re
import sys

import nbformat
import pytest
from test_runbook_parameters import write

from gpt_trader.core.outcome import StorageError, UsageError
from gpt_trader.core.workspace import Workspace
from gpt_trader.runbook import engine
from gpt_trader.runbook.procedure import MIME

OPEN = ("from gpt_trader.core.outcome import Outcome\nfrom gpt_trader.runbook.procedure import open_procedure\n"
        "p = open_procedure('{}', globals())")
PARAMETERS = 'workspace: str = ""  # folder\nat_least: int = 1  # entries'
COUNT = ("import sys\nfound = p.ws.journal.entries(kind='workspace.created')\n"
         "p.finish(Outcome('ok', 'counted', {'created': len(list(found)), 'at_least': p.params.at_least, 'python': sys.executable}))")


@pytest.fixture
def ws(tmp_path):
    with Workspace.create(tmp_path / "desk {with} 'odd' name") as ws:
        yield ws


def plain_papermill(ws, name, **params):
    """What Airflow would do: papermill, knowing nothing of us but the notebook. Returns the notebook, or the error it raised."""
    from papermill import PapermillExecutionError

    papermill = engine._papermill()
    source = nbformat.read(ws.root / "procedures" / f"{name}.ipynb", as_version=4)
    try:
        return papermill.execute_notebook(source, None, parameters={"workspace": str(ws.root), **params}, kernel_name="python3",
                                          language="python", progress_bar=False)
    except PapermillExecutionError as e:
        return e


def test_runner_and_plain_papermill_give_the_same_outcome_in_this_interpreter(ws, tmp_path, monkeypatch):
    write(ws.root / "procedures", "count", PARAMETERS, OPEN.format("count"), COUNT)
    foreign = tmp_path / "jupyter" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    spec = {"argv": ["/bin/false", "{connection_file}"], "display_name": "foreign", "language": "python"}
    (foreign / "kernel.json").write_text(json.dumps(spec))
    with monkeypatch.context() as m:
        m.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
        run = engine.run_procedure(ws, "count", {"at_least": 3})
    assert run.outcome.figures["python"] == sys.executable, "another project's python3 kernel must not be used"
    assert {p.name for p in run.folder.iterdir()} == {"notebook.ipynb", "outcome.json", "report.html"}
    facts = json.loads((run.folder / "outcome.json").read_text())
    assert facts["outcome"] == run.outcome.to_json() and facts["notebook_sha256"] == hashlib.sha256(run.notebook.read_bytes()).hexdigest()
    assert ws.journal.get(facts["journal"]["seq"]).hash == facts["journal"]["hash"]
    page = run.report.read_text()
    assert "counted" in page and not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(""", page)

    notebook = plain_papermill(ws, "count", at_least=3)
    [shown] = [o["data"][MIME] for c in notebook.cells if c.cell_type == "code" for o in c.outputs if MIME in o.get("data", {})]
    assert {k: v for k, v in shown.items() if k not in ("run_id", "name", "ordered")} == run.outcome.to_json()
    kinds = [(r["via"], r["status"]) for r in ws.store.rows("SELECT via, status FROM procedures ORDER BY rowid")]
    assert kinds == [("runner", "ok"), ("papermill", "ok")] and ws.journal.check_projections() == []


def test_plain_papermill_is_refused_what_the_runner_is(ws):
    write(ws.root / "procedures", "count", PARAMETERS, OPEN.format("count"), COUNT)
    with pytest.raises(UsageError, match="did you mean 'at_least'"):
        engine.run_procedure(ws, "count", {"at_lest": 3})
    with pytest.raises(UsageError, match="'3' is not a whole number"):
        engine.run_procedure(ws, "count", {"at_least": "3"})
    both = plain_papermill(ws, "count", at_lest=3, at_least="3")
    assert both.ename == "UsageError"
    assert "did you mean 'at_least'" in both.evalue and "'3' is not a whole number" in both.evalue
    assert ws.store.rows("SELECT * FROM procedures") == [] and list(ws.reports_dir.iterdir()) == []


def test_a_run_that_takes_too_long_is_stopped_and_unknown_and_its_evidence_kept(ws):
    write(ws.root / "procedures", "sleep", 'workspace: str = ""  # folder', OPEN.format("sleep"), "import time\ntime.sleep(120)")
    run = engine.run_procedure(ws, "sleep", timeout=12)
    assert run.exit_code == 3 and "stopped after 12 s" in run.outcome.summary and run.seconds < 100 and run.report.exists()
    [row] = ws.store.rows("SELECT status, folder FROM procedures")
    assert row == {"status": "unknown", "folder": run.folder.relative_to(ws.root).as_posix()}


def test_a_requirement_that_fails_is_wrong_usage_with_evidence(ws):
    write(ws.root / "procedures", "count", PARAMETERS, OPEN.format("count"),
          "p.require(p.params.at_least > 5, 'at_least', 'must be above 5')")
    run = engine.run_procedure(ws, "count")
    assert run.exit_code == 64 and run.status == "unknown" and "at_least: must be above 5" in run.error and run.report.exists()


def test_a_full_disk_gives_one_sentence_and_leaves_nothing(ws, monkeypatch):
    write(ws.root / "procedures", "count", PARAMETERS, OPEN.format("count"), COUNT)
    before = ws.journal.head().seq

    def full(*args, **kw):
        raise OSError(28, "No space left on device", str(ws.reports_dir))

    monkeypatch.setattr(engine, "_execute", full)
    with pytest.raises(StorageError, match="no space left on device"):
        engine.run_procedure(ws, "count")
    assert list(ws.reports_dir.iterdir()) == [] and ws.journal.head().seq == before


def test_a_killed_runners_folder_is_swept_and_a_living_ones_is_not(ws):
    import os
    import subprocess

    gone = subprocess.Popen(["true"])
    gone.wait()
    dead, alive = ws.reports_dir / f".run-a-{gone.pid}", ws.reports_dir / f".run-b-{os.getpid()}"
    dead.mkdir()
    alive.mkdir()
    engine._draft(ws, "c")
    assert not dead.exists() and alive.exists()


def test_the_index_is_rebuilt_from_the_folders(ws):
    folder = ws.reports_dir / "2013-03-01" / "210500-count-abc"
    folder.mkdir(parents=True)
    facts = {"run_id": "abc", "name": "count", "title": "Count <things>", "chapter": "appendix",
             "started_at": "2013-03-01T21:05:00.000000Z", "seconds": 1.5, "exit_code": 1, "parameters": {},
             "outcome": {"status": "warning", "summary": "few"}}
    (folder / "outcome.json").write_text(json.dumps(facts))
    page = engine.rebuild_index(ws).read_text()
    assert "Count &lt;things&gt;" in page and 'href="2013-03-01/210500-count-abc/report.html"' in page


def test_a_notebook_that_finds_something_busy_is_a_storage_trouble_with_evidence(ws):
    alone = "with p.ws.lock('desk'):\n    p.finish(Outcome('ok', 'alone'))"
    write(ws.root / "procedures", "count", PARAMETERS, OPEN.format("count"), alone)
    with ws.lock("desk"):
        run = engine.run_procedure(ws, "count")
    assert run.exit_code == 74 and "'desk' is in use by" in run.error and run.report.exists()
    assert [r["status"] for r in ws.store.rows("SELECT status FROM procedures")] == ["unknown"]


def test_reports_that_are_written_at_once_share_their_script(tmp_path):
    from concurrent.futures import ThreadPoolExecutor
    from threading import Barrier

    from gpt_trader.runbook.report import plotly_asset

    for attempt in range(10):
        together = Barrier(4)

        def write_one(reports, together=together):
            together.wait()
            return plotly_asset(reports)

        with ThreadPoolExecutor(4) as pool:
            names = list(pool.map(write_one, [tmp_path / str(attempt)] * 4))
        folder = tmp_path / str(attempt) / "_assets"
        assert [f.name for f in folder.iterdir()] == [names[0]] and (folder / names[0]).stat().st_size > 1_000_000
