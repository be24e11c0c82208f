"""Notebooks and package are one thing: folder, number, `default_exp` and module agree, nothing is edited by hand, nothing is orphaned.

Layers, forbidden imports and forbidden calls are import-linter's and ruff's (settings in pyproject.toml; `make lint`).
"""
import ast
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import grimp
import pytest

ROOT = Path(__file__).resolve().parents[1]
NBS, PACKAGE = ROOT / "nbs", ROOT / "gpt_trader"
ROOMS = sorted(p.parent.name for p in PACKAGE.glob("*/__init__.py"))
EXECUTABLE = ("procedures", "playbooks", "reports", "dashboards/pages", "research")  # run as they are, never exported; setup.py ships them
CHAPTERS = ("alert_playbooks", "troubleshooting", "performance_tuning", "monitoring_setup", "emergency", "appendix")  # the runbook's
MOST_CELLS, MOST_EXPORTED, MOST_IN_A_CELL, MOST_BYTES = 75, 400, 60, 200_000
BY_HAND = ("__init__.py", "_modidx.py")
HEAVY = ("numpy", "pandas", "pyarrow", "scipy", "sklearn", "lightgbm", "plotly", "matplotlib", "quantstats", "pandera",
         "exchange_calendars", "papermill", "nbclient", "nbconvert", "nbformat", "IPython", "ipykernel", "apprise", "requests")


def cells(path: Path) -> list[dict[str, Any]]:
    """The notebook's cells, their sources as one string."""
    found = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [c | {"source": "".join(c["source"])} for c in found]


def code(path: Path) -> list[dict[str, Any]]:
    """The notebook's code cells."""
    return [c for c in cells(path) if c["cell_type"] == "code"]


def exported(path: Path) -> list[str]:
    """What each exported cell holds, without its directives."""
    sources = [c["source"] for c in code(path) if re.search(r"^#\|\s*exports?\b", c["source"], re.M)]
    return [re.sub(r"^#\|.*\n?", "", s, flags=re.M).strip("\n") for s in sources]


def default_exps(path: Path) -> list[str]:
    """The modules that the notebook says it becomes."""
    return re.findall(r"^#\|\s*default_exp\s+(\S+)", "\n".join(c["source"] for c in code(path)), re.M)


def folder_of(notebook: Path) -> str:
    """The folder of nbs/ that it belongs to: a room, or one whose notebooks are run as they are (which may stand in a room)."""
    inside = notebook.relative_to(NBS)
    return next((f for f in EXECUTABLE if inside.as_posix().startswith(f + "/")), inside.parts[0])


def notebooks(*folders: str) -> list[Path]:
    """All notebooks of these folders of nbs/; of all folders when none is named."""
    found = sorted(n for n in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in n.parts)
    return [n for n in found if not folders or folder_of(n) in folders]


def modules() -> list[Path]:
    """The package's Python files but for those that are kept by hand."""
    return sorted(p for p in PACKAGE.rglob("*.py") if p.name not in BY_HAND)


def said(path: Path) -> str:
    """The path as people name it."""
    return path.relative_to(ROOT).as_posix()


def none_of(problems: list[str]) -> None:
    """Fail with all problems, one a line."""
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


# ---------------------------------------------------------------- one notebook, one module
def test_there_is_something_to_check() -> None:
    assert len(notebooks(*ROOMS)) >= len(ROOMS) and len(modules()) >= len(ROOMS)


def test_folder_number_default_exp_and_module_agree() -> None:
    def problems() -> Iterator[str]:
        for notebook in notebooks(*ROOMS):
            parts = notebook.relative_to(NBS).parts
            named = re.fullmatch(r"\d\d_([a-z][a-z0-9_]*)\.ipynb", parts[-1])
            if len(parts) != 2 or named is None:
                yield f"{said(notebook)}: a library notebook is nbs/<package>/NN_<module>.ipynb, in lower case"
                continue
            expected = f"{parts[0]}.{named[1]}"
            if (found := default_exps(notebook)) != [expected]:
                yield f"{said(notebook)}: has default_exp {', '.join(found) or 'none'} where its name asks for {expected}"
            module = PACKAGE / parts[0] / f"{named[1]}.py"
            if not module.exists():
                yield f"{said(notebook)}: has no module {said(module)}. Run `make sync`"

    none_of(list(problems()))


def test_no_two_notebooks_share_a_module_or_a_number() -> None:
    targets = Counter(target for n in notebooks() for target in default_exps(n))
    numbers = Counter((n.parent.name, n.name[:2]) for n in notebooks(*ROOMS))
    none_of([f"{k} notebooks have default_exp {target}: the last one would silently win" for target, k in targets.items() if k > 1]
            + [f"{k} notebooks of nbs/{room} have the number {number}" for (room, number), k in numbers.items() if k > 1])


def test_every_module_comes_from_a_notebook_that_exists() -> None:
    def problems() -> Iterator[str]:
        for module in modules():
            told = re.search(r"AUTOGENERATED! DO NOT EDIT! File to edit: (\S+\.ipynb)", module.read_text(encoding="utf-8"))
            if told is None:
                yield f"{said(module)}: was written by hand; the library is written in notebooks"
            elif not (source := (module.parent / told[1]).resolve()).exists():
                gone = told[1].removeprefix("../../")
                yield f"{said(module)}: is an orphan, its notebook {gone} is gone. Delete it, or bring the notebook back"
            elif default_exps(source) != [".".join(module.relative_to(PACKAGE).with_suffix("").parts)]:
                yield f"{said(module)}: {said(source)} exports {', '.join(default_exps(source)) or 'nothing'}, not this module"

    none_of(list(problems()))


def test_a_module_builds_on_lower_numbers_of_its_room() -> None:
    """Which also means: no cycles. Between the rooms, import-linter's layers say the same."""
    numbers = {".".join(("gpt_trader", *default_exps(n)[0].split("."))): n.name[:2] for n in notebooks(*ROOMS) if default_exps(n)}
    graph = grimp.build_graph("gpt_trader", cache_dir=None)
    problems = [f"{module} (number {number}) imports {other} (number {numbers[other]}): a module builds on lower numbers of its room"
                for module, number in numbers.items() if module in graph.modules
                for other in graph.find_modules_directly_imported_by(module)
                if other in numbers and other.rpartition(".")[0] == module.rpartition(".")[0] and numbers[other] >= number]
    none_of(sorted(problems))


def test_only_the_rooms_export() -> None:
    strays = [n for n in notebooks() if folder_of(n) not in ROOMS]
    allowed = {*EXECUTABLE, "index.ipynb"}
    none_of([f"{said(n)}: is not in a room, but exports" for n in strays if default_exps(n) or exported(n)]
            + [f"{said(n)}: belongs in one of {', '.join((*ROOMS, *EXECUTABLE))}" for n in strays
               if folder_of(n) not in allowed])


@pytest.fixture(scope="module")
def made_anew(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree after `make sync`, its modules made from nothing but the notebooks."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("settings.ini", "setup.py", "pyproject.toml"):
        shutil.copy2(ROOT / name, copy)
    for name in ("nbs", "gpt_trader"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "_notebooks"))
    for module in (copy / "gpt_trader").rglob("*.py"):
        if module.name != "__init__.py":
            module.unlink()
    for command in ("nbdev_clean", "nbdev_export"):
        program = Path(sys.executable).with_name(command)
        done = subprocess.run([program], cwd=copy, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    return copy


def test_notebooks_are_clean(made_anew: Path) -> None:
    none_of([f"{said(n)}: is not clean (metadata, outputs or execution counts would change). Run `make sync`"
             for n in notebooks() if n.read_bytes() != (made_anew / n.relative_to(ROOT)).read_bytes()])


def test_no_module_was_edited_by_hand(made_anew: Path) -> None:
    def tree(root: Path) -> dict[str, bytes]:
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted((root / "gpt_trader").rglob("*.py"))
                if not {"__pycache__", "_notebooks"} & set(p.parts)}

    here, fresh = tree(ROOT), tree(made_anew)
    none_of([f"{name}: is not what its notebook exports (edited by hand, or `make sync` was forgotten)"
             for name in sorted(here.keys() | fresh.keys()) if here.get(name) != fresh.get(name)])


# ---------------------------------------------------------------- notebooks that can be read
def test_each_notebook_opens_with_a_title_and_a_sentence() -> None:
    def problems() -> Iterator[str]:
        for notebook in notebooks():
            first = cells(notebook)[0]
            lines = [line for line in first["source"].splitlines() if line.strip()]
            if first["cell_type"] != "markdown" or len(lines) < 2 or not lines[0].startswith("# ") or not lines[1].startswith("> "):
                yield f"{said(notebook)}: begins with a Markdown cell, `# Title` and below it `> one line that says what it is for`"

    none_of(list(problems()))


def test_each_notebook_names_its_kernel() -> None:
    """Without the name papermill does not run a notebook."""
    wanted = {"display_name": "python3", "language": "python", "name": "python3"}
    found = ((n, json.loads(n.read_text(encoding="utf-8"))["metadata"]) for n in notebooks())
    none_of([f"{said(n)}: its metadata are {metadata}, where only the kernel {wanted['name']} belongs" for n, metadata in found
             if metadata != {"kernelspec": wanted}])


def test_notebooks_keep_their_size() -> None:
    def problems() -> Iterator[str]:
        for notebook in notebooks():
            sizes = [sum(bool(line.strip()) for line in source.splitlines()) for source in exported(notebook)]
            if (n := len(cells(notebook))) > MOST_CELLS:
                yield f"{said(notebook)}: {n} cells, at most {MOST_CELLS}: it is two notebooks"
            if sum(sizes) > MOST_EXPORTED:
                yield f"{said(notebook)}: {sum(sizes)} exported lines, at most {MOST_EXPORTED}: it is two modules"
            if max(sizes, default=0) > MOST_IN_A_CELL:
                yield f"{said(notebook)}: a cell exports {max(sizes)} lines, at most {MOST_IN_A_CELL}: it is two ideas"
            if (size := notebook.stat().st_size) > MOST_BYTES:
                yield f"{said(notebook)}: {size:,} bytes, at most {MOST_BYTES:,}: clear what it printed"
        for init in PACKAGE.rglob("__init__.py"):
            if (n := len(init.read_text(encoding="utf-8").splitlines())) > MOST_IN_A_CELL:
                yield f"{said(init)}: {n} lines by hand, at most {MOST_IN_A_CELL}"

    none_of(list(problems()))


def calls(tree: ast.AST, name: str) -> Iterator[ast.Call]:
    """The calls of a function or method of that name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (getattr(node.func, "id", None) == name or getattr(node.func, "attr", None) == name):
            yield node


def test_each_procedure_keeps_the_contract() -> None:
    def problems() -> Iterator[str]:
        for notebook in notebooks("procedures", "playbooks", "reports"):
            parts, name = notebook.relative_to(NBS).parts, notebook.stem
            if parts[0] == "procedures" and (len(parts) != 3 or parts[1] not in CHAPTERS):
                yield f"{said(notebook)}: stands in a chapter of the runbook, procedures/<{'|'.join(CHAPTERS)}>/<name>.ipynb"
            if (n := sum("parameters" in c["metadata"].get("tags", ()) for c in code(notebook))) != 1:
                yield f"{said(notebook)}: has {n} cells tagged `parameters`, not one"
            trees = [ast.parse(c["source"]) for c in code(notebook)]
            opened = [call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
                      for tree in trees for call in calls(tree, "open_procedure")]
            if opened != [name]:
                yield f"{said(notebook)}: opens {opened or 'no procedure'}, not open_procedure({name!r}, globals(), …) once"
            ends = ("finish", "conclude")  # a playbook concludes from its procedures
            if not trees or not [c for name in ends for c in calls(trees[-1], name)]:
                yield f"{said(notebook)}: does not end in p.finish(Outcome(…))"

    none_of(list(problems()))


def test_what_an_executable_notebook_imports_from_the_package_exists() -> None:
    """A renamed function would show only when the procedure is needed."""
    def there(module: str, name: str | None) -> bool:
        try:
            found = import_module(module)
            return name is None or hasattr(found, name) or bool(import_module(f"{module}.{name}"))
        except ModuleNotFoundError as e:
            if not (e.name or "").startswith("gpt_trader"):
                return True  # what an extra brings, and this environment lacks
            return False

    def problems() -> Iterator[str]:
        for notebook in notebooks(*EXECUTABLE):
            for node in (n for c in code(notebook) if not re.match(r"\s*[%!]", c["source"]) for n in ast.walk(ast.parse(c["source"]))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gpt_trader"):
                    module = str(node.module)
                    yield from (f"{said(notebook)}: {module} has no {n.name}" for n in node.names if not there(module, n.name))
                elif isinstance(node, ast.Import):
                    yield from (f"{said(notebook)}: there is no {n.name}" for n in node.names
                                if n.name.startswith("gpt_trader") and not there(n.name, None))

    none_of(list(problems()))


def test_no_two_executable_notebooks_share_a_name() -> None:
    """They are found by name alone: `gpt-trader run NAME`."""
    names = Counter(n.stem for n in notebooks(*EXECUTABLE))
    none_of([f"{k} executable notebooks are called {name}" for name, k in names.items() if k > 1])


# ---------------------------------------------------------------- nothing of one machine
def test_no_path_of_somebodys_machine() -> None:
    somebodys = re.compile(r"/(?:root|home|Users|work|workspace|tmp/\w+)/[\w.]")
    kinds = {".ipynb", ".py", ".md", ".toml", ".ini", ".yaml", ".yml", ".sql", ".txt", ".html", ".css", ".j2", ".tpl", ""}
    folders = ("nbs", "gpt_trader", "tests", "benchmarks", ".ci")
    files = [p for folder in folders for p in (ROOT / folder).rglob("*") if p.is_file() and p.suffix in kinds]
    files += [p for p in ROOT.iterdir() if p.is_file() and p.suffix in kinds and p.name != ".git"]
    found = [(p, match) for p in files if "__pycache__" not in p.parts for match in somebodys.findall(p.read_text(encoding="utf-8"))]
    none_of([f"{said(p)}: speaks of a path of one machine, {match!r}" for p, match in found])


# ---------------------------------------------------------------- what an import costs and does
def fresh_python(program: str) -> str:
    """What a program prints in a new interpreter, outside the checkout's own test set-up."""
    done = subprocess.run([sys.executable, "-B", "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def projections() -> dict[str, str]:
    """The projections that setup.py registers."""
    for node in ast.parse((ROOT / "setup.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "PROJECTIONS":
            return dict(ast.literal_eval(node.value))
    raise AssertionError("setup.py names no PROJECTIONS")


def test_each_projection_is_registered_and_owns_its_kinds_and_tables() -> None:
    registered = projections()
    installed = {p.name: p.value for p in entry_points(group="gpt_trader.projections")}
    assert installed == registered, "the installed entry points are not setup.py's: run `make dev`"
    made = {name: getattr(import_module(target.partition(":")[0]), target.partition(":")[2]) for name, target in registered.items()}
    kinds = Counter(kind for p in made.values() for kind in p.handlers)
    tables = Counter(table for p in made.values() for table in p.tables)
    none_of([f"{k} projections handle {kind}" for kind, k in kinds.items() if k > 1]
            + [f"{k} projections own the table {table}" for table, k in tables.items() if k > 1])
    assert kinds


def test_each_room_that_has_a_projection_registers_it() -> None:
    targets = {target.partition(":")[0] for target in projections().values()}
    holders = {".".join(("gpt_trader", *m.relative_to(PACKAGE).with_suffix("").parts)) for m in modules()
               if re.search(r"^PROJECTION\b.*=", m.read_text(encoding="utf-8"), re.M)}
    assert holders - {"gpt_trader.core.journal"} == targets  # the journal's own is always there


def loaded_by(program: str) -> list[str]:
    """Which heavy libraries a program ends up with."""
    printed = fresh_python(f"import sys\n{program}\nprint('loaded:', *(m for m in {HEAVY!r} if m in sys.modules))")
    return printed.rpartition("loaded:")[2].split()


def test_help_is_light() -> None:
    program = ("sys.argv = ['gpt-trader', '--help']\nfrom gpt_trader.cli.main import main\n"
               "try: main()\nexcept SystemExit as e: assert not e.code, e.code")
    assert loaded_by(program) == []


def test_projections_are_light() -> None:
    targets = ", ".join(sorted({target.partition(":")[0] for target in projections().values()}))
    assert loaded_by(f"import {targets}") == []


def test_the_permit_needs_only_the_standard_library() -> None:
    loaded = "print(*{m.partition('.')[0] for m in sys.modules})"
    beforehand = set(fresh_python(f"import sys\n{loaded}").split())  # what an editable installation brings by itself
    others = set(fresh_python(f"import sys, gpt_trader.trading.permit\n{loaded}").split())
    assert others - beforehand - sys.stdlib_module_names == {"gpt_trader"}


WATCHED = """
import sys
from importlib import import_module
acts = []
def watch(event, args):
    if event == "open" and isinstance(args[0], (str, bytes)) and isinstance(args[2], int) and args[2] & 0o3 and str(args[0]) != "/dev/null":
        acts.append(f"writes {args[0]}")
    elif event in ("socket.connect", "subprocess.Popen", "os.mkdir", "os.remove", "os.rename", "sqlite3.connect"):
        acts.append(f"{event} {args[:2]!r}")
sys.addaudithook(watch)
for name in NAMES:
    import_module(name)
print("\\n".join(acts))
"""


def test_importing_a_module_does_nothing() -> None:
    """No file written, no process started, no connection made, whichever of our modules is imported."""
    names = [".".join(("gpt_trader", *m.relative_to(PACKAGE).with_suffix("").parts)) for m in modules()]
    none_of(fresh_python(WATCHED.replace("NAMES", repr(names))).strip().splitlines())
