"""The pages that are made: library, API reference, runbook, command line, configuration. What people wrote stands in docs/*.md."""
from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import nbformat
import notebooks
import settings_reference
import source
from source import DOCS, NBS, ROOT, Module

ROOM_TITLES = {
    "core": "The five ideas: workspace, journal, clock, outcome, one source for each number",
    "dataflow": "History and feed, checked before they are taken in",
    "ml": "Features, labels, honest evaluation, registry, prediction",
    "risk": "What the book can lose, and the limits before an order",
    "trading": "Orders that are never lost and never doubled",
    "live": "The desk: one session, a replay, a backtest, all by the same code",
    "monitoring": "From metrics to alerts to people",
    "ops": "Backups, restore, integrity",
    "runbook": "Procedures, playbooks, incidents, and what runs them",
    "dashboards": "Panels and pages that live pages, reports and JupyterLab share",
    "cli": "The gpt-trader command",
}
CHAPTERS = {
    "alert_playbooks": ("Alert response", "What an alert asks one to look at first."),
    "troubleshooting": ("Troubleshooting", "A symptom, its diagnosis, its solutions."),
    "performance_tuning": ("Performance tuning", "What makes the pipeline, the database and the machine quicker."),
    "monitoring_setup": ("Monitoring set-up", "Logs, rules, dashboards."),
    "emergency": ("Emergency", "Halting, recovering, reporting. These notebooks take no override."),
    "appendix": ("Everyday commands", "Health, performance, maintenance."),
    "playbooks": ("Playbooks", "An alert opens an incident, and the incident runs its playbook: diagnosis, decision, what to do next. "
                               "A playbook proposes; it changes nothing."),
    "reports": ("Reports", "Documents that are made from the record."),
}
NATURE = {True: "Changes something: a dry run unless told to execute.", False: "Only looks, changes nothing."}


# ---------------------------------------------------------------- Markdown
def cell(text: Any) -> str:
    """A table cell: one line, no pipe, no dollar that could be read as mathematics."""
    parts = re.split(r"(`[^`]*`)", str(text).replace("\n", " ").replace("|", "\\|").strip())
    return "".join(p if i % 2 else p.replace("$", "\\$").replace("\\\\$", "\\$") for i, p in enumerate(parts))


def table(head: Iterable[str], rows: Iterable[Iterable[Any]], align: str = "") -> str:
    """A Markdown table; `align` holds l or r for each column."""
    names = list(head)
    bars = ["--:" if i < len(align) and align[i] == "r" else ":--" for i in range(len(names))]
    lines = ["| " + " | ".join(names) + " |", "|" + "|".join(bars) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(cell, row)) + " |" for row in rows)])


def toctree(entries: Iterable[str], *, caption: str = "", hidden: bool = True, depth: int = 1) -> str:
    options = [":hidden:"] if hidden else []
    options += [f":caption: {caption}"] if caption else []
    return "\n".join(["```{toctree}", *options, f":maxdepth: {depth}", "", *entries, "```"])


def title_of(notebook: Path) -> tuple[str, str]:
    """A notebook's title and its sentence."""
    first = json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]
    lines = [line for line in "".join(first["source"]).splitlines() if line.strip()]
    return lines[0].removeprefix("# ").strip(), lines[1].removeprefix("> ").strip() if len(lines) > 1 and lines[1].startswith(">") else ""


class Tree:
    """The assembled source: a file is written only when it changes, and what was not made again is removed at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, set[Path]()

    def write(self, name: str, text: str) -> None:
        target = self.folder / name
        self.made.add(target)
        data = text.rstrip("\n") + "\n"
        if not target.exists() or target.read_text(encoding="utf-8") != data:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(data, encoding="utf-8")

    def notebook(self, name: str, notebook: Any) -> None:
        self.write(name, nbformat.writes(notebook))

    def copy(self, name: str, path: Path) -> None:
        target = self.folder / name
        self.made.add(target)
        if not target.exists() or target.read_bytes() != path.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)

    def sweep(self) -> None:
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if path.is_file() and path not in self.made:
                path.unlink()
            elif path.is_dir() and not any(path.iterdir()):
                path.rmdir()


# ---------------------------------------------------------------- where things stand
def library_page(module: Module) -> str:
    return f"library/{module.room}/{module.name.rpartition('.')[2]}"


def api_page(module: Module) -> str:
    return f"api/{module.room}/{module.name.rpartition('.')[2]}"


def _up(page: str) -> str:
    return "../" * page.count("/")


def relinked(page: str, notebook: Path) -> Callable[[str], str]:
    """Rewrites a notebook's links to other notebooks into links to their pages."""
    where = {m.notebook: library_page(m) + ".ipynb" for m in source.modules()} | {NBS / "index.ipynb": "tour.ipynb"}
    where |= {entry.path.resolve(): f"runbook/{entry.name}.ipynb" for entry in entries()}

    def one(match: re.Match[str]) -> str:
        target = (notebook.parent / match[2]).resolve()
        return f"[{match[1]}]({_up(page)}{where[target]}{match[3] or ''})" if target in where else match[1]

    return lambda text: re.sub(r"\[([^\]]+)\]\(((?!https?:)[^)#\s]+\.ipynb)(#[^)]*)?\)", one, text)


# ---------------------------------------------------------------- library and API
def _library(tree: Tree, outputs: Mapping[Path, Any]) -> None:
    rooms: dict[str, list[Module]] = {}
    for module in source.modules():
        rooms.setdefault(module.room, []).append(module)
        page = library_page(module)
        links = (f"Module [`{module.name}`]({_up(page)}{api_page(module)}.md), from the notebook "
                 f"`{module.notebook.relative_to(ROOT)}`")
        shown = notebooks.page(outputs[module.notebook], links=relinked(page, module.notebook), after_title=f"{{.gt-module}}\n{links}")
        tree.notebook(f"{page}.ipynb", shown)
        tree.write(f"{api_page(module)}.md", _api(module))
    for room, found in rooms.items():
        rows = [(f"[{title_of(m.notebook)[0]}]({m.name.rpartition('.')[2]}.ipynb)", f"`{m.short}`", title_of(m.notebook)[1]) for m in found]
        names = [m.name.rpartition(".")[2] for m in found]
        tree.write(f"library/{room}/index.md", "\n\n".join([f"# {room}", f"> {ROOM_TITLES.get(room, '')}",
                   table(("notebook", "module", "what it is for"), rows), toctree(names)]))
        rows = [(f"[`{m.short}`]({m.name.rpartition('.')[2]}.md)", m.subtitle, sum("." not in n.qualname for n in m.names)) for m in found]
        tree.write(f"api/{room}/index.md", "\n\n".join([f"# {room}", f"> {ROOM_TITLES.get(room, '')}",
                   table(("module", "what it is for", "names"), rows, "llr"), toctree(names)]))
    order = [r for r in (*source.ROOMS, *sorted(rooms)) if r in rooms]
    order = list(dict.fromkeys(order))
    for folder, title, words in (
            ("library", "Library", "The library is written in these notebooks: each explains a module, holds its source, and shows it at work. "
             "The cells with a line at their left are the module; the others show or check it. A room may use only the rooms above it."),
            ("api", "API reference", "Every public name, by module: signature, what it does, what each parameter means. "
             "Each module's page links to the notebook that explains it.")):
        rows = [(f"[{r}]({r}/index.md)", ROOM_TITLES.get(r, ""), len(rooms[r])) for r in order]
        tree.write(f"{folder}/index.md", "\n\n".join([f"# {title}", words, table(("room", "what lives there", "modules"), rows, "llr"),
                   toctree([f"{r}/index" for r in order])]))


def _value(text: str) -> str:
    return f"\n   :value: {text}" if len(text) <= 72 and "\n" not in text else ""


def _api(module: Module) -> str:
    """The reference of one module: functions and classes by autodoc, constants from the source."""
    page = api_page(module)
    title, _ = title_of(module.notebook)
    lines = [f"# {module.short}", "", f"> {module.subtitle}", "", f"{{.gt-module}}\nExplained in [{cell(title)}]({_up(page)}{library_page(module)}.ipynb)",
             "", "```{eval-rst}", f".. py:module:: {module.name}", ""]
    for name in module.names:
        command = any(re.search(r"\.(command|group)\(", d) for d in name.decorators)
        if "." in name.qualname or command:
            continue
        if name.kind == "constant":
            lines += [f".. py:data:: {name.qualname}{_value(name.value)}", "", *("   " + line for line in rst(name.docstring, module.name)), ""]
        elif name.kind == "class":
            lines += [f".. autoclass:: {name.full}", "   :members:", "   :undoc-members:"]
            lines += [f"   :exclude-members: {', '.join(name.fields)}"] if name.fields else []
            lines.append("")
            for word, comment in name.fields.items():  # autodoc does not know the comments beside fields
                known = name.annotations.get(word, "").replace("'", "")
                lines += [f"   .. py:attribute:: {word}", *([f"      :type: {known}"] if known else []), "",
                          *("      " + line for line in rst(comment, module.name)), ""]
        else:
            lines += [f".. autofunction:: {name.full}", ""]
    lines.append("```")
    if any(re.search(r"\.(command|group)\(", d) for n in module.names for d in n.decorators):
        lines.append(f"The commands that this module makes are listed on [their own page]({_up(page)}cli.md).")
    if not module.names:
        lines.append("This module has no public names.")
    return "\n".join(lines)


def rst(text: str, module: str) -> list[str]:
    from sphinx_house import to_rst

    return to_rst(text, module) if text else []


# ---------------------------------------------------------------- runbook
def entries() -> list[Any]:
    """The packaged catalogue."""
    from gpt_trader.runbook.catalogue import catalogue

    return list(catalogue(None, NBS).values())


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    return "empty" if parameter.default in ("", [], None) else f"`{json.dumps(parameter.default)}`"


def parameters_table(declared: Any) -> str:
    """A procedure's parameters, from its own declaration."""
    rows = [(f"`{p.flag}`", p.wants, _default(p), p.help) for p in declared.parameters]
    return table(("parameter", "wants", "default", "what it is"), rows)


def _usage(entry: Any) -> str:
    declared = entry.declaration
    needed = " ".join(f"{p.flag} {_sample(p)}" for p in declared.parameters if p.required)
    return f"gpt-trader {entry.command} {needed}".strip()


def _sample(parameter: Any) -> str:
    return {"date": "2013-03-01", "message": '"Trading halted"'}.get(parameter.name, str(parameter.choices[0]) if parameter.choices else "…")


def _procedure(tree: Tree, entry: Any, ran: Mapping[str, Any]) -> None:
    declared = entry.declaration
    page = f"runbook/{entry.name}"
    chapter = CHAPTERS.get(entry.chapter, (entry.chapter.replace("_", " ").capitalize(), ""))[0]
    facts = [f"{{.gt-module}}\n[{chapter}](chapter-{entry.chapter}.md) · `{entry.path.relative_to(ROOT)}`", NATURE[declared.mutates],
             f"```console\n$ {_usage(entry)}\n```" + (f"\n```console\n$ {_usage(entry)} --execute\n```" if declared.mutates else ""),
             "## Parameters", parameters_table(declared)]
    done = ran.get(entry.name)
    notebook = done["notebook"] if done else nbformat.read(entry.path, as_version=4)
    if done:
        facts.append(f"The outputs below are of a run in the desk of the demo, at the end of its last session: `{done['command']}`.")
    facts.append("## The notebook")
    notebook = nbformat.from_dict(json.loads(json.dumps(notebook)))
    notebook.cells = [c for c in notebook.cells if not {"parameters", "injected-parameters"} & set(c.metadata.get("tags", []))]
    notebook.cells = _as_one_section(notebook.cells)
    tree.notebook(f"{page}.ipynb", notebooks.page(notebook, links=relinked(page, entry.path), after_title="\n\n".join(facts), fold=True))


def _as_one_section(cells: list[Any]) -> list[Any]:
    """The notebook's own headings, one level down: they stand under 'The notebook'."""
    for i, one in enumerate(cells):
        if one.cell_type == "markdown" and i:
            one.source = re.sub(r"^(##+ )", r"#\1", one.source, flags=re.M)
    return cells


def procedures_table(chapter: str, folder: str = "") -> str:
    rows = [(f"[{e.declaration.title}]({folder}{e.name}.ipynb)", f"`{e.command}`", e.declaration.subtitle,
             "changes" if e.declaration.mutates else "looks") for e in entries() if e.chapter == chapter]
    return table(("procedure", "command", "what it answers or does", ""), rows)


def _number(value: float, unit: str) -> str:
    if unit == "ratio":
        return f"{value * 100:g} %"
    return f"{value:g}{' ' + unit if unit else ''}"


def key_metrics_table() -> str:
    rows = []
    for metric in settings_reference.packaged().alerts.key_metrics.values():
        sign = "<" if metric.better == "higher" else ">"
        low, high = _number(metric.normal_low, metric.unit), _number(metric.normal_high, metric.unit)
        rows.append((metric.title, f"{low} to {high}", f"{sign} {_number(metric.alert, metric.unit)}", f"{sign} {_number(metric.critical, metric.unit)}"))
    return table(("metric", "normal", "alert", "critical"), rows)


def _minutes(n: int) -> str:
    return f"{n // 60} hours" if n >= 120 else f"{n} minutes"


def severities_table() -> str:
    rows = [(f"**{code}** {level.name}", _minutes(level.response_minutes), "; ".join(level.actions) or "–")
            for code, level in settings_reference.packaged().alerts.severities.items()]
    return table(("severity", "answered within", "first actions"), rows)


def rules_table() -> str:
    known = {e.name for e in entries()}
    rows = []
    for name, rule in settings_reference.packaged().alerts.rules.items():
        sign = "<" if rule.comparison == "below" else ">"
        critical = f"{sign} {rule.critical:g}" if rule.critical is not None else "–"
        book = f"[{rule.playbook.replace('_', ' ')}]({rule.playbook}.ipynb)" if rule.playbook in known else (
            rule.playbook.replace("_", " ") + ", not yet written" if rule.playbook else "–")
        held = f"{int(rule.for_.total_seconds())} s" if rule.for_ else "at once"
        rows.append((f"`{name}`", rule.title, f"{sign} {rule.threshold:g}", critical, held, f"{rule.severity}, then {rule.critical_severity}"
                     if rule.critical is not None else rule.severity, book))
    return table(("rule", "says", "alert", "critical", "held for", "severity", "playbook"), rows)


def contacts_table() -> str:
    alerts = settings_reference.packaged().alerts
    steps = list(alerts.escalation)
    rows = [(c.title, c.email or c.phone or "–", f"step {steps.index(n) + 1}" if n in steps else "–") for n, c in alerts.contacts.items()]
    return table(("contact", "reached at", "escalation"), rows)


def rota_table() -> str:
    rota = settings_reference.packaged().alerts.on_call
    rows = [(r.title, ", ".join(d.capitalize() for d in r.days)) for r in rota.rotations.values()]
    return table(("rotation", "primary on"), rows) + f"\n\nDays change at midnight in {rota.timezone}. Above both, at any hour: {rota.escalation}."


def _runbook(tree: Tree, ran: Mapping[str, Any]) -> None:
    chapters: dict[str, list[Any]] = {}
    for entry in entries():
        chapters.setdefault(entry.chapter, []).append(entry)
        _procedure(tree, entry, ran)
    for chapter, found in chapters.items():
        title, words = CHAPTERS.get(chapter, (chapter.replace("_", " ").capitalize(), ""))
        tree.write(f"runbook/chapter-{chapter}.md", "\n\n".join([f"# {title}", words, procedures_table(chapter),
                                                                toctree([e.name for e in found])]))


def chapter_names() -> list[str]:
    there = {e.chapter for e in entries()}
    return [c for c in CHAPTERS if c in there] + sorted(there - CHAPTERS.keys())


# ---------------------------------------------------------------- command line
def commands() -> list[tuple[str, Any]]:
    """Every command with its words, the packaged procedures included; of two by one name, the one that a shell reaches."""
    import click

    from gpt_trader.cli.main import cli, procedure_command

    def walk(group: Any, words: str) -> Iterable[tuple[str, Any]]:
        for name, command in click.Group.list_commands(group, None) and sorted(group.commands.items()):  # type: ignore[arg-type]
            if command.hidden:
                continue
            yield f"{words} {name}", command
            if isinstance(command, click.Group):
                yield from walk(command, f"{words} {name}")

    own = list(walk(cli, "gpt-trader"))
    names = {words for words, _ in own}
    return own + [(words, procedure_command(e)) for e in entries() if (words := f"gpt-trader {e.command}") not in names]


def _flag(option: Any) -> str:
    names = "/".join([*option.opts, *option.secondary_opts]) if option.secondary_opts else ", ".join(option.opts)
    return f"`{names}{'' if option.is_flag or not option.metavar else ' ' + option.metavar}`"


def _command(words: str, command: Any, level: str = "##") -> str:
    import click

    context = click.Context(command, info_name=words)
    help_text = re.sub(r"[\b]", "", command.help or "").strip()
    usage = command.get_usage(context).removeprefix("Usage: ")
    parts = [f"({anchor(words)})=\n{level} {words}", md(help_text), f"```text\n{usage}\n```"]
    options = [p for p in command.params if isinstance(p, click.Option) and not p.hidden]
    if options:
        parts.append(table(("option", "what it does"), [(_flag(o), md(o.help or "")) for o in options]))
    return "\n\n".join(parts)


def anchor(words: str) -> str:
    return "cmd-" + words.replace("gpt-trader ", "").replace(" ", "-")


def md(text: str) -> str:
    """Help text as Markdown: what could be read as markup is not."""
    return re.sub(r"([<>*$\[\]])", r"\\\1", text)


def _cli(tree: Tree) -> None:
    own = [(w, c) for w, c in commands() if w.removeprefix("gpt-trader ").replace("-", "_") not in {e.name for e in entries()}]
    rows = [(f"[`{w}`](#{anchor(w)})", md(c.get_short_help_str(120))) for w, c in own]
    text = ["# Command line", (DOCS / "cli.md").read_text(encoding="utf-8").strip(), "## Commands", table(("command", "what it does"), rows),
            *(_command(w, c, "###") for w, c in own), "## Procedures",
            "Each procedure of the [runbook](runbook/index.md) is a command, made from its own parameter cell."]
    for entry in entries():
        from gpt_trader.cli.main import procedure_command

        text += [_command(f"gpt-trader {entry.command}", procedure_command(entry), "###"),
                 f"[{entry.declaration.title}](runbook/{entry.name}.ipynb) in the runbook."]
    tree.write("cli.md", "\n\n".join(text))


# ---------------------------------------------------------------- configuration
def _configuration(tree: Tree) -> None:
    text = [(DOCS / "configuration.md").read_text(encoding="utf-8").strip()]
    file = ""
    for section, keys in settings_reference.sections().items():
        if section.split(".")[0] != file:
            file = section.split(".")[0]
            text.append(f"## {file}.yaml")
        if "." in section:
            text.append(f"### {section.partition('.')[2]}".replace("<name>", "*name*"))
        rows = []
        for key in keys:
            words = md(key.words) + (f" *In /etc: only {key.tighter} below it.*" if key.tighter in ("lower", "higher") else "")
            default = "" if key.default is None else f"`{key.default}`"
            rows.append((f"`{key.path.rpartition('.')[2]}`", default, key.allowed, words))
        text.append(table(("key", "default", "allowed", "what it is"), rows))
    text.append("## The packaged files\n\nAs they are shipped, with the reasons beside the numbers.")
    for name in ("config", "models", "risk", "alerts"):
        content = (source.PACKAGE / "_data" / "config" / f"{name}.yaml").read_text(encoding="utf-8")
        text.append(f"### {name}.yaml as shipped\n\n```yaml\n{content}```")
    tree.write("configuration.md", "\n\n".join(text))


# ---------------------------------------------------------------- everything
MARKS: dict[str, Callable[[], str]] = {
    "key-metrics": key_metrics_table, "severities": severities_table, "rules": rules_table, "contacts": contacts_table, "rota": rota_table,
    "performance": lambda: _between((ROOT / "README.md").read_text(encoding="utf-8"), "benchmarks"),
    "chapters": lambda: table(("chapter", "", "procedures"), [(f"[{CHAPTERS.get(c, (c,))[0]}](chapter-{c}.md)", CHAPTERS.get(c, (c, ""))[1],
                                                               sum(e.chapter == c for e in entries())) for c in chapter_names()], "llr"),
    "chapters-toc": lambda: toctree([f"chapter-{c}" for c in chapter_names()]),
    "screenshots": lambda: screenshots(),
    "vocabulary": lambda: table(("name", "what it is"), [(f"`{k}`", v) for k, v in sorted(source.vocabulary().items())]),
}


def screenshots() -> str:
    """The pictures of docs/images that README shows, as far as they are there."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = [(words, path) for words, path in re.findall(r"!\[([^\]]+)\]\(docs/(images/[\w-]+\.png)\)", readme) if (DOCS / path).exists()]
    return "\n\n".join(f"```{{figure}} {path}\n:alt: {words}\n:width: 100%\n\n{words}\n```" for words, path in found)


def _between(text: str, mark: str) -> str:
    found = re.search(rf"<!-- {mark} -->\n(.*?)<!-- /{mark} -->", text, re.S)
    return found[1].strip() if found and found[1].strip() else "No figures have been recorded for this version."


def filled(text: str) -> str:
    """A page by hand, with the tables that its marks ask for."""
    return re.sub(r"<!-- made: ([\w-]+) -->", lambda m: MARKS[m[1]](), text)


def assemble(folder: Path, outputs: Mapping[Path, Any], ran: Mapping[str, Any]) -> None:
    """The whole source tree that Sphinx reads. `ran` maps a procedure's name to its executed notebook and command."""
    tree = Tree(folder)
    generated = {"cli.md", "configuration.md"}
    for path in sorted(DOCS.rglob("*")):
        name = path.relative_to(DOCS).as_posix()
        if path.is_dir() or name.split("/")[0].startswith(("_", ".")) or name in generated or path.suffix in (".py", ".yaml") or path.name.startswith("."):
            continue
        if path.suffix == ".md":
            tree.write(name, filled(path.read_text(encoding="utf-8")))
        else:
            tree.copy(name, path)
    tree.notebook("tour.ipynb", notebooks.page(outputs[NBS / "index.ipynb"], links=relinked("tour", NBS / "index.ipynb")))
    _library(tree, outputs)
    _runbook(tree, ran)
    _cli(tree)
    _configuration(tree)
    for name in ("CHANGELOG", "CONTRIBUTING"):
        tree.write(f"{name.lower()}.md", (ROOT / f"{name}.md").read_text(encoding="utf-8"))
    tree.sweep()
