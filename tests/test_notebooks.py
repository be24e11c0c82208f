"""Each library notebook runs from top to bottom in a process of its own, so that none leans on what another left behind."""
import configparser
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SPREAD = True  # conftest: each notebook may go to another worker
LIMIT = 300  # seconds; a notebook that needs more is not for reading

# The folders that are packages hold the library; procedures, playbooks and dashboards need parameters and have tests of their own.
PACKAGES = sorted(p.parent.name for p in (ROOT / "gpt_trader").glob("*/__init__.py"))
NOTEBOOKS = [*(ROOT / "nbs").glob("*.ipynb"), *(n for p in PACKAGES for n in sorted((ROOT / "nbs" / p).glob("*.ipynb")))]

# What `nbdev_test` does with one notebook, in a fresh interpreter.
RUN = """
import json, sys
from pathlib import Path
from nbdev.test import test_nb
ok, seconds = test_nb(Path(sys.argv[1]), skip_flags=json.loads(sys.argv[2]), basepath=sys.argv[3])
sys.exit(0 if ok else 1)
"""


def skip_flags() -> list[str]:
    """Cells with one of these directives are not run."""
    settings = configparser.ConfigParser(delimiters=["="])
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    return settings["DEFAULT"]["tst_flags"].split()


def run(notebook: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a notebook as `nbdev_test` would, in a process of its own."""
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "TERM": "dumb", "NO_COLOR": "1"}
    command = [sys.executable, "-c", RUN, str(notebook), json.dumps(skip_flags()), str(ROOT)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=LIMIT)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.relative_to(ROOT / "nbs").with_suffix("").as_posix())
def test_notebook(notebook: Path) -> None:
    done = run(notebook, ROOT)
    if done.returncode:
        pytest.fail(f"{notebook.relative_to(ROOT)} fails when run alone:\n{done.stderr[-6000:]}", pytrace=False)


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
