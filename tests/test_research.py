"""The research notebooks run from top to bottom, each in a kernel of its own, on the prices in the package."""
import json
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import papermill
import pytest
from nbclient.exceptions import CellExecutionError

from gpt_trader.cli.lab import bring_research
from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.workspace import Workspace
from gpt_trader.dataflow.ingestion import ingest
from gpt_trader.dataflow.providers import EmbeddedProvider
from gpt_trader.ml.registry import champion, models
from gpt_trader.runbook.catalogue import notebooks_folder

ORDER = ("explore", "a_new_feature", "a_new_model", "compare", "promote")
HEAD = "range_expansion"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A workspace that holds the package's prices and the research notebooks, and no model."""
    root = tmp_path_factory.mktemp("desk")
    with Workspace.create(root, SimulatedClock(datetime(2013, 3, 1, 22, tzinfo=UTC))) as ws:
        (ws.config_dir / "models.yaml").write_text("lightgbm:\n  num_boost_round: 80\n")  # a third of the trees, a third of the time
        ingest(ws, EmbeddedProvider(), ws.config.app.desk.universe)
        assert {c.path.stem for c in bring_research(ws)} == set(ORDER)
    return root


def execute(desk: Path, name: str, **parameters) -> nbformat.NotebookNode:
    """Run the workspace's copy as JupyterLab's Run All would."""
    target = desk / f"{name}-executed.ipynb"
    papermill.execute_notebook(desk / "research" / f"{name}.ipynb", target, {"workspace": str(desk), **parameters}, kernel_name="python3",
                               progress_bar=False, cwd=desk / "research")
    return nbformat.read(target, as_version=4)


def text(notebook: nbformat.NotebookNode) -> str:
    """All that its cells put out, as text."""
    outputs = [o for c in notebook.cells if c.cell_type == "code" for o in c.outputs]
    return "\n".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in outputs)


def plots(notebook: nbformat.NotebookNode) -> int:
    return sum("application/vnd.plotly.v1+json" in o.get("data", {}) for c in notebook.cells if c.cell_type == "code" for o in c.outputs)


def test_explore(desk):
    made = execute(desk, "explore")
    assert plots(made) >= 4 and "11,958" in text(made), "the bars' count stands in the quality card"
    assert "naive rule" in text(made)


def test_a_new_feature(desk):
    made = execute(desk, "a_new_feature")
    assert "unfinished stands at place" in text(made) and plots(made) == 2


def test_models_are_trained_compared_and_promoted(desk):
    """In their order: each takes up what the one before registered."""
    trained = text(execute(desk, "a_new_model"))
    assert "training rows leak into the test" in trained
    with Workspace.open(desk) as ws:
        known = models(ws, HEAD)
        assert [m.status for m in known] == ["challenger", "challenger"], "research promotes nothing by itself"
        assert all(m.evaluation.beats_both for m in known)

    compared = text(execute(desk, "compare", sessions=40))
    assert "keep the champion" in compared or "promote the challenger" in compared

    dry = text(execute(desk, "promote"))
    with Workspace.open(desk) as ws:
        assert champion(ws, HEAD) is None and "Dry run, nothing was changed" in dry
    done = text(execute(desk, "promote", execute=True))
    with Workspace.open(desk) as ws:
        now = champion(ws, HEAD)
        assert now is not None and now.version == known[-1].version and f"verified: {now.version} is the champion" in done
        granted = list(ws.journal.entries(kind="approval.granted"))
        assert granted[-1].body["params"] == {"head": HEAD, "version": now.version}
        assert ws.journal.verify().ok


def test_compare_without_models_says_what_to_run(tmp_path):
    with Workspace.create(tmp_path) as ws:
        bring_research(ws)
    with pytest.raises((papermill.PapermillExecutionError, CellExecutionError), match="run a_new_model first"):
        execute(tmp_path, "compare")


def test_every_notebook_of_the_folder_is_run_here():
    found = {p.stem for p in (notebooks_folder() / "research").glob("*.ipynb")}
    assert found == set(ORDER)
    for name in found:
        cells = json.loads((notebooks_folder() / "research" / f"{name}.ipynb").read_text())["cells"]
        assert sum("parameters" in c["metadata"].get("tags", ()) for c in cells) == 1
