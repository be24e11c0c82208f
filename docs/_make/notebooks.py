"""Notebooks as pages: executed once for each content, kept in a cache, and cleared of what only the exporter reads.

The key of the cache holds the notebook's code, every module of the package that it leads to by imports, the packaged data, and the versions
of what draws the outputs. A change of one module executes again just the notebooks that rest on it.
"""
from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from html import escape
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import nbformat
import source
from source import NBS, PACKAGE, ROOT

SKIPPED = ("notest", "slow", "network")  # as settings.ini's tst_flags say
MOST_TEXT = 12_000  # characters of an output that a page shows
SECONDS = 300  # for a cell
VERSION = "1"  # of what this module makes of a notebook


# ---------------------------------------------------------------- the key
@cache
def _imports() -> dict[str, set[str]]:
    """Module -> the package's modules that it imports, lazily or not."""
    return {m.name: set(_imported(m.path.read_text(encoding="utf-8"), m.name)) for m in source.modules()}


def _imported(text: str, module: str = "") -> Iterable[str]:
    known = {m.name for m in source.modules()}
    for name in re.findall(r"^\s*(?:from|import) gpt_trader\.(\w+) import", text, re.M):  # a room's public names, brought lazily
        yield from (n for n in known if n.startswith(f"gpt_trader.{name}."))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            base = ".".join(module.split(".")[:-node.level]) if node.level else ""
            whole = ".".join(filter(None, [base, node.module or ""]))
            yield from (n for n in [whole, *(f"{whole}.{a.name}" for a in node.names)] if n in known)
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name in known)


@cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@cache
def _surroundings() -> str:
    """What each output rests on: packaged data, Python, the libraries that draw."""
    data = [f"{p.relative_to(PACKAGE)} {_digest(p)}" for p in sorted((PACKAGE / "_data").rglob("*")) if p.is_file() and "templates" not in p.parts]
    versions = [f"{n} {version(n)}" for n in ("numpy", "pandas", "plotly", "lightgbm", "ipykernel")]
    return "\n".join([VERSION, sys.version, *versions, *data])


@cache
def _procedures() -> list[str]:
    """The executable notebooks, which the runbook's modules find by name."""
    folders = ("procedures", "playbooks", "reports")
    return [f"{p.relative_to(NBS)} {_digest(p)}" for folder in folders for p in sorted((NBS / folder).rglob("*.ipynb"))]


def rests_on(text: str) -> list[str]:
    """The modules that code leads to, at any distance."""
    found: set[str] = set()
    todo = list(_imported(text))
    while todo:
        module = todo.pop()
        if module not in found:
            found.add(module)
            todo += _imports().get(module, ())
    return sorted(found)


def key_of(notebook: Any, *more: str) -> str:
    """The cache key of a notebook's outputs."""
    sources = [c.source for c in notebook.cells if c.cell_type == "code"]
    code = "\n".join(line for s in sources for line in s.splitlines() if not line.startswith(("%", "!")))
    paths = {m.name: m.path for m in source.modules()}
    modules = [f"{name} {_digest(paths[name])}" for name in rests_on(code)]
    if any(name.startswith("gpt_trader.runbook.") for name in rests_on(code)):
        modules += _procedures()
    return hashlib.sha256("\n".join([_surroundings(), *more, *sources, *modules]).encode()).hexdigest()[:32]


# ---------------------------------------------------------------- execution
def directives(text: str) -> set[str]:
    """nbdev's directives of a cell: `#| export` -> {'export'}."""
    return {m[1] for m in re.finditer(r"^#\|\s*(\w+)", text, re.M)}


def kernel_name() -> str:
    """The warm kernel that `gpt-trader engine install` made for this interpreter, else Jupyter's own."""
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    from gpt_trader.cli.engine import KERNEL

    try:
        return KERNEL if KernelSpecManager().get_kernel_spec(KERNEL).argv[0] == sys.executable else "python3"
    except NoSuchKernel:
        return "python3"


def environment(home: Path) -> dict[str, str]:
    """Nothing of the user's: no workspace, no settings, an empty home."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("GPT_TRADER_", "XDG_", "JPY_"))}
    return kept | {"HOME": str(home), "PLOTLY_RENDERER": "plotly_mimetype", "PYTHONDONTWRITEBYTECODE": "1", "NO_COLOR": "1", "COLUMNS": "110",
                   "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}


def execute(notebook: Any, home: Path) -> Any:
    """The notebook with its outputs; cells that the tests skip are not run. Raises nbclient's CellExecutionError."""
    from nbclient import NotebookClient
    from traitlets.config import Config

    ran = nbformat.from_dict(json.loads(json.dumps(notebook)))
    kept = [(i, c) for i, c in enumerate(ran.cells) if c.cell_type == "code" and not directives(c.source) & set(SKIPPED)]
    run = nbformat.v4.new_notebook(cells=[c for _, c in kept], metadata=ran.metadata)
    with tempfile.TemporaryDirectory(prefix="gt-") as sockets:  # its own: kernels that start at once would take each other's
        settings = Config({"KernelManager": {"transport": "ipc", "ip": f"{sockets}/k"}}) if os.name == "posix" else Config()
        client = NotebookClient(run, timeout=SECONDS, kernel_name=kernel_name(), resources={"metadata": {"path": str(ROOT)}}, config=settings)
        client.execute(env=environment(home))
    for (i, _), cell in zip(kept, run.cells, strict=True):
        ran.cells[i] = cell
    return ran


def executed(paths: list[Path], folder: Path, say: Callable[[str], None] = print, workers: int = 2) -> dict[Path, Any]:
    """Each notebook with its outputs, from the cache in `folder` or made now. All that fail are named in one error."""
    folder.mkdir(parents=True, exist_ok=True)
    notebooks = {p: nbformat.read(p, as_version=4) for p in paths}
    keys = {p: key_of(nb) for p, nb in notebooks.items()}
    missing = [p for p in paths if not (folder / f"{keys[p]}.ipynb").exists()]
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as home, ThreadPoolExecutor(workers) as pool:
        def one(path: Path) -> None:
            started = perf_counter()
            try:
                ran = execute(notebooks[path], Path(home))
            except Exception as error:  # each notebook's own failure; all are told together below
                problems.append(f"{path.relative_to(ROOT)}: {error}")
                return
            target = folder / f"{keys[path]}.ipynb"
            nbformat.write(ran, target.with_suffix(".part"))
            target.with_suffix(".part").replace(target)
            say(f"  executed {path.relative_to(ROOT)} in {perf_counter() - started:.1f} s")

        list(pool.map(one, missing))
    if problems:
        raise RuntimeError("notebooks that do not run:\n" + "\n".join(problems))
    return {p: nbformat.read(folder / f"{keys[p]}.ipynb", as_version=4) for p in paths}


def cached(paths: list[Path], folder: Path) -> dict[Path, Any]:
    """Each notebook with its outputs where the cache has them, else as it is stored."""
    found = {}
    for path in paths:
        notebook = nbformat.read(path, as_version=4)
        kept = folder / f"{key_of(notebook)}.ipynb"
        found[path] = nbformat.read(kept, as_version=4) if kept.exists() else notebook
    return found


# ---------------------------------------------------------------- what a page shows
def tidy_text(text: str) -> str:
    """Paths of this machine and addresses of objects are no part of what is shown."""
    text = text.replace(str(ROOT), "gpt_trader")
    text = re.sub(r"/tmp/tmp[\w-]+", "/tmp/desk", text)
    text = re.sub(r" at 0x[0-9a-f]{8,}", "", text)
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + "\n…"


def _plot(figure: dict[str, Any]) -> str:
    layout = {k: v for k, v in figure.get("layout", {}).items() if k != "template"}
    height = int(layout.get("height") or 380)
    words = layout.get("title", {})
    title = words.get("text", "") if isinstance(words, dict) else str(words)
    names = ", ".join(str(t["name"]) for t in figure.get("data", []) if t.get("name"))
    said = escape(re.sub(r"<[^>]+>", " ", " – ".join(filter(None, [title, names]))) or "figure", quote=True)
    data = json.dumps({"data": figure.get("data", []), "layout": layout}).replace("</", "<\\/")
    return (f'<div class="gt-plot" role="img" aria-label="{said}" style="min-height:{height}px">'
            f'<script type="application/json">{data}</script></div>')


def _table(html: str) -> str:
    html = re.sub(r"<style scoped>.*?</style>", "", html, flags=re.S).replace('border="1" ', "")
    return f'<div class="gt-scroll" tabindex="0" role="region" aria-label="table">{html}</div>' if "<table" in html else html


_REPORT = r"[^\"'()\s]*/\d{6}-(\w+)-[0-9a-f]+/report\.html"


def relinked_output(text: str) -> str:
    """An output's links to another run's report lead to that procedure's page; links to other files of the run are plain words."""
    text = re.sub(rf"""href=(["'])(?!https?:){_REPORT}\1""", r'href="\2.html" data-page=""', text)
    text = re.sub(r"""<a (?![^>]*data-page)[^>]*href=(["'])(?!https?:|#)[^"']*\1[^>]*>(.*?)</a>""", r"\2", text, flags=re.S)

    def led(link: re.Match[str]) -> str:  # Sphinx resolves no link of an output: it names the page as it is written
        report = re.fullmatch(_REPORT, link[2])
        return f"[{link[1]}]({report[1]}.html)" if report else link[1]

    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)([^)]*\.html)\)", led, text)


def tidy_output(output: Any) -> Any | None:
    """An output in the one form that the page shows."""
    if output.output_type == "stream":
        output.text = tidy_text(output.text)
        return output if output.text.strip() else None
    if output.output_type == "error":
        output.traceback = [tidy_text(line) for line in output.traceback]
        return output
    data = output.data
    if "application/vnd.plotly.v1+json" in data:
        output.data = {"text/html": _plot(data["application/vnd.plotly.v1+json"])}
    elif "text/html" in data:
        output.data = {"text/html": _table(relinked_output(tidy_text(data["text/html"])))}
    elif "text/markdown" in data:
        output.data = {"text/markdown": relinked_output(tidy_text(data["text/markdown"]))}
    elif "text/plain" in data and not any(k.startswith(("image/", "text/markdown", "text/latex")) for k in data):
        output.data = {"text/plain": tidy_text(data["text/plain"])}
    if output.output_type == "execute_result" and "text/html" in output.data:
        output = nbformat.v4.new_output("display_data", data=dict(output.data))
    return output


def _only_imports(text: str) -> bool:
    body = [n for n in ast.parse(text).body] if text.strip() else []
    return bool(body) and all(isinstance(n, ast.Import | ast.ImportFrom) or (isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test))
                              for n in body)


def _code_cell(cell: Any) -> Any | None:
    found = directives(cell.source)
    if found & {"hide", "default_exp"}:
        return None
    cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M).strip("\n")
    if not cell.source.strip():
        return None
    tags = []
    if found & {"export", "exports"}:
        tags.append("exported")
    plain = not re.search(r"^[%!]", cell.source, re.M)
    if plain and _only_imports(cell.source):
        tags.append("hide-input")
        cell.metadata["mystnb"] = {"code_prompt_show": "Show the imports", "code_prompt_hide": "Hide the imports"}
    if found & set(SKIPPED):
        tags.append("not-run")
    cell.metadata["tags"] = tags
    cell.outputs = [o for o in map(tidy_output, cell.outputs) if o is not None]
    cell.execution_count = None
    return cell


def page(notebook: Any, *, links: Callable[[str], str] = lambda text: text, after_title: str = "", fold: bool = False) -> Any:
    """The notebook as the site shows it. `links` rewrites Markdown; `after_title` comes below title and subtitle; `fold` folds all code."""
    made = []
    for i, cell in enumerate(notebook.cells):
        if cell.cell_type == "markdown":
            text = links(cell.source)
            if i == 0 and after_title:
                head = re.match(r"(# .*\n+(?:>.*\n?)*)", text + "\n")
                cut = head.end() if head else 0
                text = f"{text[:cut].rstrip()}\n\n{after_title}\n\n{text[cut:].lstrip()}"
            made.append(nbformat.v4.new_markdown_cell(text))
        elif cell.cell_type == "code" and (shown := _code_cell(cell)) is not None:
            if fold and "hide-input" not in shown.metadata["tags"]:
                shown.metadata["tags"].append("hide-input")
                shown.metadata["mystnb"] = {"code_prompt_show": "Show the code", "code_prompt_hide": "Hide the code"}
            made.append(shown)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    out = nbformat.v4.new_notebook(cells=made, metadata={"kernelspec": kernel, "language_info": {"name": "python", "pygments_lexer": "ipython3"}})
    for i, cell in enumerate(out.cells):
        cell["id"] = str(i)
    return out


def library() -> list[Path]:
    """The tour and the library's notebooks."""
    return [NBS / "index.ipynb", *(m.notebook for m in source.modules())]
