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


def copy_of_the_tree(folder: Path) -> Path:
    """What the gate looks at, in a folder of its own."""
    for name in ("settings.ini", "setup.py", "pyproject.toml"):
        shutil.copy2(ROOT / name, folder)
    for name in ("nbs", "gpt_trader"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.parquet"))
    (folder / "tests").mkdir()
    shutil.copy2(ROOT / "tests" / "test_structure.py", folder / "tests")
    return folder


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return copy_of_the_tree(tmp_path)


def run(tree: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a tool in the copy, on the copy's package."""
    environment = os.environ | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1"}
    return subprocess.run([str(c) for c in command], cwd=tree, env=environment, capture_output=True, text=True, timeout=120)


def structure(tree: Path, test: str) -> subprocess.CompletedProcess[str]:
    """Structure tests, on the copy: one of them, or several as pytest's -k takes them."""
    return run(tree, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_structure.py", "-k", test)


def lint_imports(tree: Path) -> subprocess.CompletedProcess[str]:
    """The gate's import-linter, on the copy."""
    return run(tree, BIN / "lint-imports", "--no-cache")


def ruff(tree: Path, module: str) -> subprocess.CompletedProcess[str]:
    """The gate's ruff, on one module of the copy."""
    return run(tree, BIN / "ruff", "check", "--no-cache", "--output-format", "concise", module)


USED = {  # the structure tests that are shown to fail below
    "test_a_module_builds_on_lower_numbers_of_its_room", "test_folder_number_default_exp_and_module_agree",
    "test_no_two_notebooks_share_a_module_or_a_number", "test_no_module_was_edited_by_hand", "test_notebooks_are_clean",
    "test_every_module_comes_from_a_notebook_that_exists", "test_importing_a_module_does_nothing", "test_each_procedure_keeps_the_contract",
    "test_each_notebook_names_its_kernel", "test_what_an_executable_notebook_imports_from_the_package_exists",
}


@pytest.fixture(scope="module", autouse=True)
def _the_undamaged_tree_passes(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Or seeing a failure after the damage would prove nothing."""
    sound = copy_of_the_tree(tmp_path_factory.mktemp("sound"))
    for done in (structure(sound, " or ".join(sorted(USED))), lint_imports(sound), ruff(sound, "gpt_trader/core")):
        if done.returncode:
            pytest.fail(f"the undamaged tree fails already:\n{done.stdout}{done.stderr}", pytrace=False)


def bites(damaged: subprocess.CompletedProcess[str], *words: str) -> None:
    """Red after the damage, and the message says what is wrong."""
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
    add_cell(tree / "nbs/core/10_clock.ipynb", "#| export\nfrom gpt_trader.trading.permit import Permit")
    assert run(tree, BIN / "nbdev_export").returncode == 0
    bites(lint_imports(tree), "gpt_trader.core is not allowed to import gpt_trader.trading", "1 broken")


def test_a_module_that_imports_a_higher_number(tree: Path) -> None:
    (tree / "gpt_trader/core/clock.py").open("a").write("\nfrom .store import Store\n")
    bites(structure(tree, "test_a_module_builds_on_lower_numbers_of_its_room"),
          "gpt_trader.core.clock (number 10) imports gpt_trader.core.store (number 30)")


def test_the_permit_with_a_heavy_import(tree: Path) -> None:
    (tree / "gpt_trader/core/clock.py").open("a").write("\nimport pandas\n")
    bites(lint_imports(tree), "gpt_trader.trading.permit is not allowed to import pandas")


def test_exported_code_that_needs_nbdev(tree: Path) -> None:
    (tree / "gpt_trader/core/outcome.py").open("a").write("\nfrom fastcore.basics import patch\n")
    bites(lint_imports(tree), "gpt_trader is not allowed to import fastcore")


def test_a_renamed_notebook(tree: Path) -> None:
    (tree / "nbs/core/10_clock.ipynb").rename(tree / "nbs/core/10_watch.ipynb")
    bites(structure(tree, "test_folder_number_default_exp_and_module_agree"), "10_watch.ipynb",
          "has default_exp core.clock where its name asks for core.watch")


def test_two_notebooks_for_one_module(tree: Path) -> None:
    shutil.copy2(tree / "nbs/core/10_clock.ipynb", tree / "nbs/core/11_clock.ipynb")
    bites(structure(tree, "test_no_two_notebooks_share_a_module_or_a_number"), "2 notebooks have default_exp core.clock")


def test_a_module_edited_by_hand(tree: Path) -> None:
    module = tree / "gpt_trader/core/clock.py"
    module.write_text(module.read_text(encoding="utf-8") + "\nEXTRA = 1\n", encoding="utf-8")
    bites(structure(tree, "test_no_module_was_edited_by_hand"), "gpt_trader/core/clock.py: is not what its notebook exports")


def test_a_notebook_saved_with_its_noise(tree: Path) -> None:
    notebook = tree / "nbs/core/10_clock.ipynb"
    content = json.loads(notebook.read_text(encoding="utf-8"))
    content["cells"][1]["metadata"] = {"scrolled": True}
    notebook.write_text(json.dumps(content, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    bites(structure(tree, "test_notebooks_are_clean"), "10_clock.ipynb: is not clean")


def test_a_notebook_without_its_kernels_name(tree: Path) -> None:
    notebook = tree / "nbs/core/10_clock.ipynb"
    content = json.loads(notebook.read_text(encoding="utf-8"))
    notebook.write_text(json.dumps({**content, "metadata": {}}, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    bites(structure(tree, "test_each_notebook_names_its_kernel"), "nbs/core/10_clock.ipynb", "only the kernel python3 belongs")


def test_an_import_cell_without_export(tree: Path) -> None:
    notebook = tree / "nbs/core/10_clock.ipynb"
    add_cell(notebook, "import string")
    add_cell(notebook, "#| export\nLETTERS = string.ascii_letters")
    assert run(tree, BIN / "nbdev_export").returncode == 0
    bites(ruff(tree, "gpt_trader/core/clock.py"), "F821", "Undefined name `string`")


def test_an_orphan_module(tree: Path) -> None:
    (tree / "nbs/core/10_clock.ipynb").unlink()
    bites(structure(tree, "test_every_module_comes_from_a_notebook_that_exists"), "gpt_trader/core/clock.py: is an orphan")


def test_a_module_written_by_hand(tree: Path) -> None:
    (tree / "gpt_trader/core/extra.py").write_text("X = 1\n", encoding="utf-8")
    bites(structure(tree, "test_every_module_comes_from_a_notebook_that_exists"), "gpt_trader/core/extra.py: was written by hand")


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
    module.write_text(module.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    bites(ruff(tree, "gpt_trader/core/outcome.py"), "outcome.py:", rule)


def test_a_module_that_acts_when_imported(tree: Path) -> None:
    module = tree / "gpt_trader/core/outcome.py"
    module.write_text(module.read_text(encoding="utf-8") + "\nopen('left-behind.txt', 'w').close()\n", encoding="utf-8")
    bites(structure(tree, "test_importing_a_module_does_nothing"), "writes left-behind.txt")


def test_a_procedure_under_another_name(tree: Path) -> None:
    procedure = next(iter(sorted((tree / "nbs/procedures").rglob("*.ipynb"))))
    procedure.rename(procedure.with_name("another_name.ipynb"))
    bites(structure(tree, "test_each_procedure_keeps_the_contract"), "another_name.ipynb: opens", "not open_procedure('another_name'")


def test_a_procedure_that_imports_what_is_gone(tree: Path) -> None:
    add_cell(tree / "nbs/procedures/emergency/halt_trading.ipynb", "from gpt_trader.core.outcome import Outcomes")
    bites(structure(tree, "test_what_an_executable_notebook_imports"), "halt_trading.ipynb: gpt_trader.core.outcome has no Outcomes")
