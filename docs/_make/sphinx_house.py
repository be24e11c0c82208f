"""The Sphinx side: docstrings in the house's plain style, parameter comments, mathematics as MathML, Plotly from one local file."""
from __future__ import annotations

import re
import shutil
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import source
from docutils import nodes
from docutils.utils.math import latex2mathml
from sphinx.application import Sphinx

PLOTLY = "plotly.min.js"


# ---------------------------------------------------------------- docstrings
def _link(word: str, module: str) -> str:
    """A code span; a public name becomes a reference to its entry."""
    bare = word.removesuffix("()")
    known = source.index()
    for full in (bare, f"{module}.{bare}", f"gpt_trader.{bare}"):
        if full in known:
            return f":py:obj:`~{full}`"
    return f"``{word}``"


def _escaped(text: str) -> str:
    text = re.sub(r"([\\`*_|])", r"\\\1", text)
    return re.sub(r"(?<=\w):(?=[\w:])", r"\\:", text).replace("::", ":\\:")  # file:line is no address


def to_rst(text: str, module: str = "") -> list[str]:
    """A docstring as reStructuredText that cannot be misread: paragraphs, dashes as lists, indented blocks as they are, `code` as code."""
    out: list[str] = []
    blocks = re.split(r"\n\s*\n", text.strip("\n"))
    for block in blocks:
        lines = block.split("\n")
        if all(line.startswith("    ") for line in lines):
            out += ["::", "", *lines, ""]
            continue
        for i, line in enumerate(lines):
            stripped = line.strip()
            item = re.match(r"[-*] +", stripped)
            body = stripped[item.end():] if item else stripped
            parts = re.split(r"(`+[^`]+`+)", body)
            words = ""
            for j, part in enumerate(parts):
                if j % 2 == 0:
                    words += _escaped(part)
                    continue
                before, after = parts[j - 1], parts[j + 1]
                words += ("\\ " if before and not before[-1].isspace() and before[-1] not in "([{'\"<-/:" else "") + _link(part.strip("`"), module)
                words += "\\ " if after and (after[0].isalnum() or after[0] in "_`(") else ""
            if not item and re.match(r"([:.+>=~#-]|\d+[.)]|\(?[a-z]\)) ?", words):
                words = "\\" + words if not words.startswith(":py:obj:") else words
            if item:
                out += ([""] if i else []) + ["* " + words]
            elif out and out[-1].startswith("* ") and line.startswith("  "):
                out.append("  " + words)
            else:
                out.append(words)
        out.append("")
    return out


def _docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    known = source.index().get(name)
    module = known.module if known else ""
    if known is None:
        owner, _, member = name.rpartition(".")
        held = source.index().get(owner)
        comment = held.fields.get(member, "") if held else ""
        lines[:] = to_rst(comment, held.module) if held and comment else to_rst("\n".join(lines)) if held is None else []
        return
    if what == "data" or known.kind == "constant":
        lines[:] = to_rst(known.docstring, module)
        return
    lines[:] = to_rst(known.docstring, module) or [""]
    if lines[-1]:
        lines.append("")
    for parameter in known.parameters:
        words = source.meaning(known, parameter)
        if words:
            lines.append(f":param {parameter}: " + " ".join(to_rst(words, module)).strip())
    if known.returns:
        lines.append(":returns: " + " ".join(to_rst(known.returns, module)).strip())


def _signature(app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None) -> Any:
    """A configuration section's constructor says nothing that its fields do not; a Protocol, exception or enum has none worth showing."""
    if what != "class":
        return None
    known = source.index().get(name)
    bases = " ".join(known.decorators) if known else ""
    if any(word in bases for word in ("Settings", "BaseModel", "Protocol", "StrEnum", "Enum")) or signature in ("(*args, **kwargs)",):
        return "", None
    return None


def _skip(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    return True if name in ("model_config", "model_fields", "model_computed_fields") or name.startswith("_abc_") else None


# ---------------------------------------------------------------- mathematics without a script
def _math(text: str, block: bool) -> str:
    return latex2mathml.tex2mathml(text.replace("\\dots", "\\ldots"), as_block=block)


def _inline_math(self: Any, node: nodes.math) -> None:
    self.body.append(_math(node.astext(), False))
    raise nodes.SkipNode


def _block_math(self: Any, node: nodes.math_block) -> None:
    self.body.append(f'<div class="math-block" tabindex="0" role="region" aria-label="formula">{_math(node.astext(), True)}</div>')
    raise nodes.SkipNode


# ---------------------------------------------------------------- figures
def _plots(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Plotly's script only on the pages that draw with it."""
    if doctree is not None and any("gt-plot" in raw.astext() for raw in doctree.findall(nodes.raw)):
        app.add_js_file(PLOTLY, priority=600)
        app.add_js_file("plots.js", priority=700)


def plotly_script() -> Path:
    """Plotly's own script, which its Python package brings."""
    spec = find_spec("plotly")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("plotly is not installed")
    return Path(spec.submodule_search_locations[0]) / "package_data" / "plotly.min.js"


def _copy_plotly(app: Sphinx, error: Exception | None) -> None:
    if error is None and app.builder.format == "html":
        target = Path(app.outdir) / "_static" / PLOTLY
        shutil.copyfile(plotly_script(), target)


# ---------------------------------------------------------------- the tree of pages
@cache
def _whole_tree(app: Sphinx) -> str:
    """The navigation as the landing page has it. Sphinx would resolve it anew for every page, which costs more than all else together."""
    return str(app.builder._get_local_toctree(app.config.root_doc, collapse=False, titles_only=True, maxdepth=-1, includehidden=True))


@cache
def _parents(app: Sphinx) -> dict[str, str]:
    return {child: parent for parent, children in app.env.toctree_includes.items() for child in children}


def tree_for(whole: str, page: str, line: list[str]) -> str:
    """The landing page's tree as `page` has it: links from where it stands, and its own line marked as current."""
    whole = whole.replace('role="heading"', 'role="heading" aria-level="2"')
    text = re.sub(r' current(?=")|(?<=")current ', "", whole).replace('href="#"', 'href="index.html"')
    for name in line:
        text = re.sub(rf'<li class="(toctree-l\d)"><a class="reference internal" href="{re.escape(name)}\.html">',
                      rf'<li class="\1 current"><a class="current reference internal" href="{name}.html">', text, count=1)
    up = "../" * page.count("/")
    return re.sub(r'href="(?!https?:|#)', f'href="{up}', text).replace(f'href="{up}{page}.html"', 'href="#"')


def _navigation(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    line, here = [page], page
    while here in _parents(app):
        here = _parents(app)[here]
        line.append(here)
    if "toctree" in context:
        context["toctree"] = lambda **given: tree_for(_whole_tree(app), page, line)


# ---------------------------------------------------------------- reachable by keyboard and screen reader
def _reachable(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Code that scrolls takes the focus; a signature's parameters are lines, not a list of definitions without terms."""
    def lines(found: re.Match[str]) -> str:
        return '<span class="gt-params">' + found[1].replace("<dd>", '<span class="gt-param">').replace("</dd>", "</span>") + "</span>"

    if "body" in context:
        body = re.sub(r"<dl>\s*((?:<dd>.*?</dd>\s*)+)</dl>", lines, context["body"], flags=re.S)
        context["body"] = body.replace("<pre>", '<pre tabindex="0">')


# ---------------------------------------------------------------- tables that scroll
def _scrollable(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """The list of parameters of every table keeps its words; wide ones scroll inside their frame, by keyboard too (see custom.css)."""
    for table in doctree.findall(nodes.table):
        table["classes"].append("gt-table")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("autodoc-process-docstring", _docstring)
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-skip-member", _skip)
    app.connect("html-page-context", _plots)
    app.connect("html-page-context", _reachable)
    app.connect("html-page-context", _navigation, priority=100)  # before furo's own, which asks for the tree
    app.connect("doctree-resolved", _scrollable)
    app.connect("build-finished", _copy_plotly)
    app.add_html_math_renderer("mathml", (_inline_math, None), (_block_math, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
