"""The gate is shown to fail: each kind of damage is done to a copy of the tree, and what should see it does."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what the gate looks at, to be damaged."""
    for name in ("settings.ini", "setup.py", "pyproject.toml"):
        shutil.copy2(ROOT / name, tmp_path)
    for name in ("nbs", "gpt_trader"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.parquet"))
    (tmp_path / "tests").mkdir()
    shutil.copy2(ROOT / "tests" / "test_structure.py", tmp_path / "tests")
    return tmp_path


def run(tree: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a tool in the copy, on the copy's package."""
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"}
    return subprocess.run([str(c) for c in command], cwd=tree, env=environment, capture_output=True, text=True, timeout=120)


def structure(tree: Path, test: str) -> subprocess.CompletedProcess[str]:
    """One structure test, on the copy."""
    return run(tree, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/test_structure.py::{test}")


def ruff(tree: Path, module: str) -> subprocess.CompletedProcess[str]:
    """The gate's ruff, on one module of the copy."""
    return run(tree, BIN / "ruff", "check", "--no-cache", "--output-format", "concise", module)


def bites(sound: subprocess.CompletedProcess[str], damaged: subprocess.CompletedProcess[str], *words: str) -> None:
    """Green before the damage, red after it, and the message says what is wrong."""
    assert sound.returncode == 0, f"the undamaged tree fails already:\n{sound.stdout}{sound.stderr}"
    said = damaged.stdout + damaged.stderr
    assert damaged.returncode != 0, f"the damage went unseen:\n{said}"
    assert [w for w in words if w not in said] == [], said


def add_cell(notebook: Path, source: str) -> None:
    """Append a code cell to a notebook, as an editor would save it."""
    content = json.loads(notebook.read_text(encoding="utf-8"))
    content["cells"].append({"cell_type": "code", "execution_count": None, "id": str(len(content["cells"])), "metadata": {}, "outputs": [],
                             "source": source.splitlines(keepends=True)})
    notebook.write_text(json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def test_a_room_that_imports_upwards(tree: Path) -> None:
    sound = run(tree, BIN / "lint-imports", "--no-cache")
    add_cell(tree / "nbs/core/10_clock.ipynb", "#| export\nfrom gpt_trader.trading.permit import Permit")
    assert run(tree, BIN / "nbdev_export").returncode == 0
    bites(sound, run(tree, BIN / "lint-imports", "--no-cache"), "gpt_trader.core is not allowed to import gpt_trader.trading", "1 broken")


def test_a_module_that_imports_a_higher_number(tree: Path) -> None:
    test = "test_a_module_builds_on_lower_numbers_of_its_room"
    sound = structure(tree, test)
    (tree / "gpt_trader/core/clock.py").open("a").write("\nfrom .store import Store\n")
    bites(sound, structure(tree, test), "gpt_trader.core.clock (number 10) imports gpt_trader.core.store (number 30)")


def test_the_permit_with_a_heavy_import(tree: Path) -> None:
    sound = run(tree, BIN / "lint-imports", "--no-cache")
    (tree / "gpt_trader/core/clock.py").open("a").write("\nimport pandas\n")
    bites(sound, run(tree, BIN / "lint-imports", "--no-cache"), "gpt_trader.trading.permit is not allowed to import pandas")


def test_exported_code_that_needs_nbdev(tree: Path) -> None:
    sound = run(tree, BIN / "lint-imports", "--no-cache")
    (tree / "gpt_trader/core/outcome.py").open("a").write("\nfrom fastcore.basics import patch\n")
    bites(sound, run(tree, BIN / "lint-imports", "--no-cache"), "gpt_trader is not allowed to import fastcore")


def test_a_renamed_notebook(tree: Path) -> None:
    test = "test_folder_number_default_exp_and_module_agree"
    sound = structure(tree, test)
    (tree / "nbs/core/10_clock.ipynb").rename(tree / "nbs/core/10_watch.ipynb")
    bites(sound, structure(tree, test), "10_watch.ipynb", "has default_exp core.clock where its name asks for core.watch")


def test_two_notebooks_for_one_module(tree: Path) -> None:
    test = "test_no_two_notebooks_share_a_module_or_a_number"
    sound = structure(tree, test)
    shutil.copy2(tree / "nbs/core/10_clock.ipynb", tree / "nbs/core/11_clock.ipynb")
    bites(sound, structure(tree, test), "2 notebooks have default_exp core.clock")


def test_a_module_edited_by_hand(tree: Path) -> None:
    test = "test_no_module_was_edited_by_hand"
    sound = structure(tree, test)
    module = tree / "gpt_trader/core/clock.py"
    module.write_text(module.read_text(encoding="utf-8") + "\nEXTRA = 1\n", encoding="utf-8")
    bites(sound, structure(tree, test), "gpt_trader/core/clock.py: is not what its notebook exports")


def test_a_notebook_saved_with_its_noise(tree: Path) -> None:
    test = "test_notebooks_are_clean"
    sound = structure(tree, test)
    notebook = tree / "nbs/core/10_clock.ipynb"
    content = json.loads(notebook.read_text(encoding="utf-8"))
    content["cells"][1]["metadata"] = {"scrolled": True}
    notebook.write_text(json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    bites(sound, structure(tree, test), "10_clock.ipynb: is not clean")


def test_an_import_cell_without_export(tree: Path) -> None:
    sound = ruff(tree, "gpt_trader/core/clock.py")
    notebook = tree / "nbs/core/10_clock.ipynb"
    add_cell(notebook, "import string")
    add_cell(notebook, "#| export\nLETTERS = string.ascii_letters")
    assert run(tree, BIN / "nbdev_export").returncode == 0
    bites(sound, ruff(tree, "gpt_trader/core/clock.py"), "F821", "Undefined name `string`")


def test_an_orphan_module(tree: Path) -> None:
    test = "test_every_module_comes_from_a_notebook_that_exists"
    sound = structure(tree, test)
    (tree / "nbs/core/10_clock.ipynb").unlink()
    bites(sound, structure(tree, test), "gpt_trader/core/clock.py: is an orphan")


def test_a_module_written_by_hand(tree: Path) -> None:
    test = "test_every_module_comes_from_a_notebook_that_exists"
    sound = structure(tree, test)
    (tree / "gpt_trader/core/extra.py").write_text("X = 1\n", encoding="utf-8")
    bites(sound, structure(tree, test), "gpt_trader/core/extra.py: was written by hand")


@pytest.mark.parametrize(("line", "rule"), [
    ("import pickle", "TID251"),
    ("import sqlite3", "TID251"),
    ("from sqlite_utils import Database", "TID251"),
    ("from datetime import datetime\nNOW = datetime.now()", "TID251"),
    ("def load(text: str) -> object:\n    return eval(text)", "S307"),
    ("import yaml\n\n\ndef load(text: str) -> object:\n    return yaml.load(text, yaml.Loader)", "S506"),
    ("import subprocess\n\n\ndef run(text: str) -> None:\n    subprocess.run(text, shell=True, check=True)", "S602"),
    ("def quiet() -> None:\n    try:\n        print()\n    except Exception:\n        pass", "S110"),
])
def test_forbidden_in_the_library(tree: Path, line: str, rule: str) -> None:
    module = tree / "gpt_trader/core/outcome.py"
    sound = ruff(tree, "gpt_trader/core/outcome.py")
    module.write_text(module.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    bites(sound, ruff(tree, "gpt_trader/core/outcome.py"), "outcome.py:", rule)


def test_a_module_that_acts_when_imported(tree: Path) -> None:
    test = "test_importing_a_module_does_nothing"
    sound = structure(tree, test)
    module = tree / "gpt_trader/core/outcome.py"
    module.write_text(module.read_text(encoding="utf-8") + "\nopen('left-behind.txt', 'w').close()\n", encoding="utf-8")
    bites(sound, structure(tree, test), "writes left-behind.txt")


def test_a_procedure_under_another_name(tree: Path) -> None:
    test = "test_each_procedure_keeps_the_contract"
    sound = structure(tree, test)
    procedure = next(iter(sorted((tree / "nbs/procedures").rglob("*.ipynb"))))
    procedure.rename(procedure.with_name("another_name.ipynb"))
    bites(sound, structure(tree, test), "another_name.ipynb: opens", "not open_procedure('another_name'")
