"""What the package says of itself, read from its source without importing it: public names, docstrings, and the comments beside parameters.

nbdev's way of documenting a parameter is a comment on its line (`name: str,  # what it is`). Sphinx does not know it, so it is read here;
`tests/test_docs.py` holds the same reading against every public name.
"""
from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, NBS, DOCS = ROOT / "gpt_trader", ROOT / "nbs", ROOT / "docs"
ROOMS = ("core", "dataflow", "ml", "risk", "trading", "live", "monitoring", "ops", "runbook", "dashboards", "cli")  # lowest first
sys.path.insert(0, str(ROOT))  # this checkout's package, wherever another one may be installed
BY_HAND = ("__init__.py", "_modidx.py")


@dataclass(frozen=True)
class Name:
    """A public name of a module. `parameters` and `fields` map a name to its comment ('' where it has none)."""

    module: str
    qualname: str
    kind: str  # function | class | method | property | constant
    line: int
    docstring: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    fields: dict[str, str] = field(default_factory=dict)
    returns: str = ""
    value: str = ""
    decorators: tuple[str, ...] = ()

    @property
    def full(self) -> str:
        return f"{self.module}.{self.qualname}"


@dataclass(frozen=True)
class Module:
    """A module of the package and the notebook that it comes from."""

    name: str  # gpt_trader.core.clock
    path: Path
    notebook: Path
    subtitle: str
    names: tuple[Name, ...]  # in the order of the source; methods and properties follow their class

    @property
    def room(self) -> str:
        return self.name.split(".")[1]

    @property
    def short(self) -> str:
        return self.name.removeprefix("gpt_trader.")


def _comments(text: str) -> dict[int, str]:
    """Line number -> the comment that ends it; a line that is nothing but a comment is not one."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and token.line[:token.start[1]].strip():
            words = token.string.lstrip("#").strip()
            words = re.sub(r"\s*(type: ignore(\[[\w,-]+\])?|noqa(: ?[A-Z0-9, ]+)?)\s*", "", words)
            if words:
                found[token.start[0]] = words
    return found


def _signature(node: ast.FunctionDef | ast.AsyncFunctionDef, comments: dict[int, str]) -> tuple[dict[str, str], dict[str, str], str]:
    """Each parameter's comment and annotation, and the comment beside what is returned.

    A comment belongs to a parameter when no other parameter shares its line: on one line, it belongs to the whole signature."""
    given = node.args
    arguments = [*given.posonlyargs, *given.args, *([given.vararg] if given.vararg else []), *given.kwonlyargs,
                 *([given.kwarg] if given.kwarg else [])]
    ends = {}
    for a, default in _with_defaults(given):
        ends[a.arg] = max(a.end_lineno or a.lineno, (default.end_lineno or 0) if default else 0)
    on_line = list(ends.values())
    last = node.body[0].lineno - 1
    parameters = {a.arg: comments.get(ends[a.arg], "") if on_line.count(ends[a.arg]) == 1 and ends[a.arg] > node.lineno else ""
                  for a in arguments if a.arg not in ("self", "cls")}
    annotations = {a.arg: ast.unparse(a.annotation) if a.annotation else "" for a in arguments if a.arg not in ("self", "cls")}
    closing = [n for n in range(max(on_line, default=node.lineno) + 1, last + 1) if n in comments]
    return parameters, annotations, comments[closing[-1]] if closing and node.returns else ""


def _with_defaults(given: ast.arguments) -> Iterator[tuple[ast.arg, ast.expr | None]]:
    plain = [*given.posonlyargs, *given.args]
    yield from zip(plain, [None] * (len(plain) - len(given.defaults)) + list(given.defaults), strict=True)
    yield from zip(given.kwonlyargs, given.kw_defaults, strict=True)
    yield from ((a, None) for a in (given.vararg, given.kwarg) if a)


def _functions(node: Any, module: str, prefix: str, comments: dict[int, str]) -> Name:
    parameters, annotations, returns = _signature(node, comments)
    decorators = tuple(ast.unparse(d) for d in node.decorator_list)
    inside = bool(prefix)
    kind = "property" if inside and any(d.split(".")[-1] in ("property", "cached_property") for d in decorators) else (
        "method" if inside else "function")
    return Name(module, prefix + node.name, kind, node.lineno, ast.get_docstring(node) or "", parameters, annotations,
                returns=returns, decorators=decorators)


def _class(node: ast.ClassDef, module: str, comments: dict[int, str]) -> Iterator[Name]:
    fields, annotations = {}, {}
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and not item.target.id.startswith("_"):
            fields[item.target.id] = comments.get(item.end_lineno or item.lineno, "")
            annotations[item.target.id] = ast.unparse(item.annotation)
        elif isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name) and not item.targets[0].id.startswith("_"):
            fields[item.targets[0].id] = comments.get(item.end_lineno or item.lineno, "")
    made = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    parameters, own, _ = _signature(made, comments) if made else ({}, {}, "")
    decorators = tuple(ast.unparse(d) for d in node.decorator_list) + tuple(f"({ast.unparse(b)})" for b in node.bases)
    yield Name(module, node.name, "class", node.lineno, ast.get_docstring(node) or "", parameters, {**annotations, **own}, fields,
               decorators=decorators)
    for item in node.body:
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and not item.name.startswith("_"):
            if not any(d.endswith(".setter") for d in map(ast.unparse, item.decorator_list)):
                yield _functions(item, module, f"{node.name}.", comments)


def _names(text: str, module: str) -> Iterator[Name]:
    tree, comments = ast.parse(text), _comments(text)
    for i, node in enumerate(tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield _functions(node, module, "", comments)
        elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from _class(node, module, comments)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Name) and not target.id.startswith("_") and node.value is not None:
                    below = tree.body[i + 1] if i + 1 < len(tree.body) else None  # a text below a constant is its docstring
                    said = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else ""
                    yield Name(module, target.id, "constant", node.lineno, str(said) or comments.get(node.end_lineno or node.lineno, ""),
                               value=ast.unparse(node.value))


@cache
def modules() -> tuple[Module, ...]:
    """Every module of the package, by room from the lowest up, then by the number of its notebook."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        if path.name in BY_HAND or "_notebooks" in path.parts or path.parent == PACKAGE:
            continue
        text = path.read_text(encoding="utf-8")
        told = re.search(r"File to edit: (\S+\.ipynb)", text)
        if told is None:
            continue
        notebook = (path.parent / told[1]).resolve()
        if not notebook.exists():
            continue
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found.append(Module(name, path, notebook, (ast.get_docstring(ast.parse(text)) or "").strip(), tuple(_names(text, name))))
    return tuple(sorted(found, key=lambda m: (ROOMS.index(m.room) if m.room in ROOMS else 99, m.notebook.name)))


@cache
def index() -> dict[str, Name]:
    """Full name -> what is known of it."""
    return {name.full: name for module in modules() for name in module.names}


@cache
def vocabulary() -> dict[str, str]:
    """Parameter names that mean the same everywhere, and what they mean."""
    return dict(yaml.safe_load((DOCS / "vocabulary.yaml").read_text(encoding="utf-8")))


def meaning(name: Name, parameter: str) -> str:
    """What a parameter is: its comment, else (where the docstring does not speak of it) the vocabulary's words, else ''."""
    said = name.parameters.get(parameter, "")
    if said or mentions(name.docstring, parameter):
        return said
    return vocabulary().get(parameter, "")


def mentions(text: str, word: str) -> bool:
    """Whether a docstring speaks of a parameter by its name (or says so in the plural or with its unit)."""
    return re.search(rf"(?<![\w.]){re.escape(word)}(?!\w)", text, re.I) is not None
