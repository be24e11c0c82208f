"""Each library notebook runs from top to bottom in a process of its own, so that none leans on what another left behind."""
import configparser
import json
import multiprocessing
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from notebook_process import run_notebook

ROOT = Path(__file__).resolve().parents[1]
SPREAD = True  # conftest: each notebook may go to another worker
LIMIT = 300  # seconds; a notebook that needs more is not for reading

# The folders that are packages hold the library; procedures, playbooks and dashboards need parameters and have tests of their own.
PACKAGES = sorted(p.parent.name for p in (ROOT / "gpt_trader").glob("*/__init__.py"))
NOTEBOOKS = [*(ROOT / "nbs").glob("*.ipynb"), *(n for p in PACKAGES for n in sorted((ROOT / "nbs" / p).glob("*.ipynb")))]

def skip_flags() -> list[str]:
    """Cells with one of these directives are not run."""
    settings = configparser.ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    return settings["DEFAULT"]["tst_flags"].split()


# The processes are forked from one that has imported what others wrote (it takes seconds each time) and nothing of ours.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pandas", "nbdev.test", "IPython.core.interactiveshell", "pydantic", "sqlite_utils"])


@dataclass
class Done:
    """How a notebook's process ended."""

    returncode: int | None  # None: it did not end in time
    stderr: str


def run(notebook: Path, cwd: Path) -> Done:
    """Run a notebook as `nbdev_test` would, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "stderr"
        child = FORKS.Process(target=run_notebook, args=(str(notebook), skip_flags(), str(ROOT), str(cwd), str(said)))
        child.start()
        child.join(LIMIT)
        code = child.exitcode
        if code is None:
            child.kill()
            child.join()
        return Done(code, said.read_text() if said.exists() else "")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.relative_to(ROOT / "nbs").with_suffix("").as_posix())
def test_notebook(notebook: Path) -> None:
    done = run(notebook, ROOT)
    if done.returncode != 0:
        how = "fails when run alone" if done.returncode else f"was not done after {LIMIT} s"
        pytest.fail(f"{notebook.relative_to(ROOT)} {how}:\n{done.stderr[-6000:]}", pytrace=False)


def test_a_failing_notebook_is_seen(tmp_path: Path) -> None:
    """The runner itself: a false assertion fails, a skipped cell does not run."""
    def notebook(*sources: str) -> Path:
        cells = [{"cell_type": "code", "execution_count": None, "id": str(i), "metadata": {}, "outputs": [], "source": s}
                 for i, s in enumerate(sources)]
        path = tmp_path / "nb.ipynb"
        kernel = {"name": "python3", "language": "python", "display_name": "python3"}
        path.write_text(json.dumps({"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}))
        return path

    assert run(notebook("x = 1", "assert x == 1"), tmp_path).returncode == 0
    failed = run(notebook("x = 1", "assert x == 2, 'seen'"), tmp_path)
    assert failed.returncode == 1 and "seen" in failed.stderr
    assert run(notebook("#| notest\nassert False", "#| network\nassert False"), tmp_path).returncode == 0
