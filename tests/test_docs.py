"""The documentation: everything public is explained, the site builds without the network and holds together, a reader finds what is there.

The rule for parameters: each is explained by the comment on its line, by its function's docstring, by docs/vocabulary.yaml (names that mean
the same everywhere), or by its type, when that is a documented class of the library.
"""
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS, NBS = ROOT / "docs", ROOT / "nbs"
sys.path.insert(0, str(DOCS / "_make"))

import pages  # noqa: E402
import settings_reference  # noqa: E402
import source  # noqa: E402

OUTSIDE = {  # the hosts that a page may link to
    "click.palletsprojects.com", "docs.pydantic.dev", "github.com", "keepachangelog.com", "opentelemetry.io", "pandera.readthedocs.io",
    "papermill.readthedocs.io", "prometheus.io", "psutil.readthedocs.io", "pyyaml.org", "semver.org", "www.sqlite.org",
    "www.structlog.org", "jupyter.org", "voila.readthedocs.io", "plotly.com", "lightgbm.readthedocs.io", "skfolio.org", "arxiv.org",
    "doi.org", "en.wikipedia.org",
    "docs.python.org", "jupyterlab.readthedocs.io", "jupyter-client.readthedocs.io", "playwright.dev", "www.w3.org", "scipy.org",
    "docs.scipy.org", "ipython.readthedocs.io", "anywidget.dev", "127.0.0.1", "localhost",
    "data.example.com",  # an example in a docstring
}


def none_of(problems: list[str]) -> None:
    """Fail with all problems, one a line."""
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


# ---------------------------------------------------------------- every public name
def is_command(name: source.Name) -> bool:
    """Whether click made a command of it: it is explained by its help."""
    return any(re.search(r"\.(command|group)\(", d) for d in name.decorators)


def owner(name: source.Name) -> source.Name | None:
    """The class of a method or property."""
    return source.index().get(name.full.rpartition(".")[0])


def bases(name: source.Name | None) -> list[str]:
    """The classes that a class is made from."""
    return [d[1:-1] for d in name.decorators if d.startswith("(")] if name else []


def of_a_framework(name: source.Name) -> bool:
    """A method that a class of another library asks for: that library calls and explains it."""
    ours = {n.qualname for n in source.index().values()}
    return any(b.split(".")[-1].split("[")[0] not in ours | {"Protocol", "Exception"} for b in bases(owner(name)))


def names() -> Iterator[source.Name]:
    return (name for module in source.modules() for name in module.names)


def test_there_is_something_to_read() -> None:
    kinds = {name.kind for name in names()}
    assert len(source.modules()) > 60 and {"function", "class", "method", "property", "constant"} <= kinds
    assert {m.room for m in source.modules()} <= set(source.ROOMS), "a new room: name it in docs/_make/source.py"


def test_comments_beside_parameters_are_read() -> None:
    load = source.index()["gpt_trader.core.config.load_config"]
    assert load.parameters["etc"] == "the machine's folder" and load.returns.startswith("validated")
    assert source.index()["gpt_trader.core.config.Config"].fields["app"] == "config.yaml"


def test_every_public_function_and_class_has_a_docstring() -> None:
    """Attributes of a Protocol are explained by their class; methods that a framework asks for, by the framework."""
    def excused(name: source.Name) -> bool:
        return ("Protocol" in bases(owner(name)) and name.kind == "property") or of_a_framework(name)

    none_of([f"{n.full}: has no docstring ({n.kind}). Write it in its notebook" for n in names()
             if n.kind != "constant" and not n.docstring and not excused(n)])


def test_every_parameter_is_explained() -> None:
    ours = {n.qualname for n in names() if n.kind == "class" and n.docstring}

    def by_type(annotation: str) -> bool:
        return bool(set(re.findall(r"\w+", annotation)) & ours)

    def problems() -> Iterator[str]:
        for name in names():
            if name.kind in ("constant", "property") or is_command(name) or of_a_framework(name):
                continue
            if name.kind == "class" and of_a_framework(source.Name(name.module, name.qualname + ".x", "method", 0)):
                continue
            if any(d.startswith("_card(") for d in name.decorators):  # a card takes the one object that it shows
                continue
            for parameter in name.parameters:
                annotation = name.annotations.get(parameter, "")
                if not (source.meaning(name, parameter) or source.mentions(name.docstring, parameter) or by_type(annotation)):
                    yield (f"{name.full}: nothing explains {parameter}: {annotation or 'untyped'}. Write a comment on its line, name it in "
                           "the docstring, or give it a meaning for all in docs/vocabulary.yaml")

    none_of(list(problems()))


def test_the_vocabulary_holds_only_names_in_use() -> None:
    used = {p for n in names() for p in n.parameters}
    none_of([f"docs/vocabulary.yaml: no function has a parameter {word}" for word in source.vocabulary() if word not in used])


# ---------------------------------------------------------------- commands, settings, procedures
def test_every_command_and_option_is_explained() -> None:
    def problems() -> Iterator[str]:
        for words, command in pages.commands():
            if not command.help:
                yield f"{words}: says nothing of itself"
            for option in command.params:
                if option.param_type_name == "option" and not option.hidden and not option.help:
                    yield f"{words}: {option.opts[0]} has no help"

    none_of(list(problems()))


def test_every_setting_is_explained() -> None:
    found = list(settings_reference.keys())
    assert {k.path.split(".")[0] for k in found} == {"config", "models", "risk", "alerts"} and len(found) > 120
    none_of([f"{k.path}: has no words. Write a comment beside it, in the YAML file or in core.settings" for k in found if not k.words])


def test_a_setting_is_shown_as_it_is_written() -> None:
    shown = {k.path: k for k in settings_reference.keys()}
    assert shown["risk.limits.max_var"].default == "50_000" and "USD" in shown["risk.limits.max_var"].words
    assert shown["risk.limits.max_var"].tighter == "lower" and shown["config.data.token"].allowed == "reference to a secret or null"
    assert shown["alerts.rules.<name>.threshold"].allowed == "number, or the key of one"


def test_the_tables_of_the_runbook_are_those_of_the_settings() -> None:
    alerts = settings_reference.packaged().alerts
    assert all(m.title in pages.key_metrics_table() for m in alerts.key_metrics.values())
    assert "58 % to 62 %" in pages.key_metrics_table() and "< 55 %" in pages.key_metrics_table()
    assert all(name in pages.rules_table() for name in alerts.rules)


def pages_by_hand() -> list[Path]:
    return sorted(p for p in DOCS.rglob("*.md") if not any(part.startswith("_") for part in p.relative_to(DOCS).parts))


def test_every_command_that_a_page_names_exists() -> None:
    """`gpt-trader x` in a page, the README or CONTRIBUTING is a command, and its options are options."""
    known = {words.split()[1]: command for words, command in pages.commands() if len(words.split()) == 2}
    example = "check-something"  # what the guide to writing a procedure makes

    def problems() -> Iterator[str]:
        for path in [*pages_by_hand(), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]:
            text = path.read_text(encoding="utf-8")
            for line in re.findall(r"gpt-trader ([^`\n#]+)", "\n".join(re.findall(r"`[^`\n]+`|^(?:\$ |)gpt-trader .*$", text, re.M))):
                words = re.sub(r"^--workspace \S+ ", "", line).split()
                if not words or words[0].startswith("-") or words[0] in ("<procedure>", "NAME", example):
                    continue
                command = known.get(words[0])
                if command is None:
                    yield f"{path.relative_to(ROOT)}: there is no command gpt-trader {words[0]}"
                    continue
                if hasattr(command, "commands"):
                    if len(words) > 1 and not words[1].startswith("-"):
                        if words[1] not in command.commands:
                            yield f"{path.relative_to(ROOT)}: there is no command gpt-trader {words[0]} {words[1]}"
                            continue
                        command = command.commands[words[1]]
                options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
                yield from (f"{path.relative_to(ROOT)}: gpt-trader {words[0]} has no {w}" for w in words
                            if w.startswith("--") and w.split("=")[0] not in options)

    none_of(sorted(set(problems())))


# ---------------------------------------------------------------- the site, assembled without running anything
@pytest.fixture(scope="module")
def assembled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import nbformat
    import notebooks

    folder = tmp_path_factory.mktemp("docs") / "source"
    pages.assemble(folder, {p: nbformat.read(p, as_version=4) for p in notebooks.library()}, {})
    return folder


def test_every_notebook_module_and_procedure_has_a_page(assembled: Path) -> None:
    wanted = [p for m in source.modules() for p in (f"{pages.library_page(m)}.ipynb", f"{pages.api_page(m)}.md")]
    missing = [p for p in wanted if not (assembled / p).exists()]
    missing += [e.name for e in pages.entries() if not (assembled / f"runbook/{e.name}.ipynb").exists()]
    none_of([f"{name} has no page" for name in missing])
    index = {n for p in assembled.rglob("*.md") for n in re.findall(r"^(\S+)$", p.read_text(encoding="utf-8"), re.M)}
    none_of([f"{e.name}: no chapter lists it" for e in pages.entries() if e.name not in index])


def test_a_procedures_page_has_its_own_parameters(assembled: Path) -> None:
    for entry in pages.entries():
        page = json.loads((assembled / f"runbook/{entry.name}.ipynb").read_text(encoding="utf-8"))
        text = "".join("".join(c["source"]) for c in page["cells"])
        absent = [p.flag for p in entry.declaration.parameters if f"`{p.flag}`" not in text]
        assert not absent, f"{entry.name}: its page lacks {absent}"


def test_a_page_shows_neither_directives_nor_hidden_cells(assembled: Path) -> None:
    for path in sorted(assembled.rglob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        assert not [c for c in cells if c["cell_type"] == "code" and re.search(r"^#\|", "".join(c["source"]), re.M)], path


def test_the_cache_knows_what_a_notebook_rests_on() -> None:
    import nbformat
    import notebooks

    tour = nbformat.read(NBS / "index.ipynb", as_version=4)
    rests = notebooks.rests_on("\n".join(c.source for c in tour.cells if c.cell_type == "code"))
    assert {"gpt_trader.core.store", "gpt_trader.ml.features", "gpt_trader.trading.permit"} <= set(rests)
    before = notebooks.key_of(tour)
    tour.cells[1].source += "\n1"
    assert notebooks.key_of(tour) != before == notebooks.key_of(nbformat.read(NBS / "index.ipynb", as_version=4))


def test_the_links_of_an_output_lead_to_pages() -> None:
    """To the page of the procedure whose report it names; what else lay beside the run is plain words."""
    from notebooks import relinked_output

    report = "../2013-03-01/210500-list_positions-ab12/report.html"
    assert relinked_output(f"see [positions]({report}), [a file](tear.html)") == "see [positions](list_positions.html), a file"
    assert relinked_output(f"<a href='{report}'>a</a> <a href='x.csv'>x</a>") == '<a href="list_positions.html" data-page="">a</a> x'
    assert relinked_output("[theirs](https://www.sqlite.org/a.html)") == "[theirs](https://www.sqlite.org/a.html)"


def test_docstrings_become_safe_markup() -> None:
    from sphinx_house import to_rst

    assert to_rst("a*b* |c| d_ and `x.y`'s ``z``") == [r"a\*b\* \|c\| d\_ and ``x.y``'s ``z``", ""]
    assert to_rst("One:\n\n    code *here*") == ["One:", "", "::", "", "    code *here*", ""]
    assert to_rst("`load_config`", "gpt_trader.core.config") == [":py:obj:`~gpt_trader.core.config.load_config`", ""]


# ---------------------------------------------------------------- the site, built
def built(folder: Path, cache: Path, *options: str, seconds: float) -> Path:
    """The folder of the site that docs/build.py makes below `folder`, without a warning and with no network to ask."""
    environment = os.environ | {"GPT_TRADER_DOCS_CACHE": str(cache), **NO_NETWORK}
    done = subprocess.run([sys.executable, str(DOCS / "build.py"), *options, "--to", str(folder)], env=environment, cwd=folder,
                          capture_output=True, text=True, timeout=seconds)
    if done.returncode or "WARNING" in done.stderr:
        pytest.fail(f"the site does not build, or with warnings:\n{done.stdout[-2000:]}{done.stderr[-6000:]}", pytrace=False)
    shutil.rmtree(folder / "doctrees")
    return folder / "html"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built once for all tests and without running a notebook: its pages, links and search are the same."""
    folder = tmp_path_factory.mktemp("site")
    return built(folder, folder / "cache", "--no-execute", seconds=900)


PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
NO_NETWORK = dict.fromkeys(PROXIES, "http://127.0.0.1:9") | {"no_proxy": ""}  # nobody answers there


class Page(HTMLParser):
    """The links and anchors of a page, and what it loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links, self.ids, self.loads = list[str](), set[str](), list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.ids |= {v for k, v in attrs if k in ("id", "name") and v}
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        if tag in ("script", "img", "iframe", "source") and given.get("src"):
            self.loads.append(str(given["src"]))
        if tag == "link" and given.get("href") and given.get("rel") not in ("canonical", "author"):
            self.loads.append(str(given["href"]))


def dead_links(site: Path) -> list[str]:
    """What the pages link to or load that is not there, or that no page may load."""
    found = {p: Page(p.read_text(encoding="utf-8")) for p in sorted(site.rglob("*.html"))}
    assert len(found) > 150

    def problems() -> Iterator[str]:
        for path, page in found.items():
            said = path.relative_to(site)
            for link in page.links + page.loads:
                parts = urlsplit(link)
                if parts.scheme in ("http", "https"):
                    if link in page.loads or parts.hostname not in OUTSIDE or " " in link:
                        yield f"{said}: {link} is not on the list of outside addresses, or is loaded"
                elif parts.scheme == "mailto":
                    if not re.fullmatch(r"mailto:[\w.+-]+@[\w-]+(\.[\w-]+)+", link):
                        yield f"{said}: {link} is no address"
                elif parts.scheme not in ("", "data"):
                    yield f"{said}: {link} has a scheme that no page needs"
                elif parts.scheme == "":
                    target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
                    if not target.exists():
                        yield f"{said}: {link} is not there"
                    elif parts.fragment and target.suffix == ".html" and unquote(parts.fragment) not in found[target].ids:
                        yield f"{said}: {link} has no such anchor"

    return sorted(set(problems()))


@pytest.mark.soak  # the site takes minutes to build
@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_every_link_of_the_site_leads_somewhere(site: Path) -> None:
    none_of(dead_links(site))


def pages_without_outputs(site: Path, cache: Path) -> list[str]:
    """The library's pages that lack the outputs that their executed notebooks in the cache have."""
    import notebooks

    executed = notebooks.cached(notebooks.library(), cache)
    showing = [m for m in source.modules() if any(c.get("outputs") for c in notebooks.page(executed[m.notebook]).cells)]
    assert showing, "no executed notebook has anything to show"
    return [f"{name} shows no outputs" for name in map(pages.library_page, showing)
            if "cell_output" not in (site / f"{name}.html").read_text(encoding="utf-8")]


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.skipif(os.environ.get("GPT_TRADER_SOAK") != "1", reason="set GPT_TRADER_SOAK=1: running all notebooks takes minutes")
def test_the_site_of_executed_notebooks(tmp_path: Path) -> None:
    """Every notebook runs, its outputs are on its page, and what they link to is there."""
    site = built(tmp_path, tmp_path / "cache", seconds=7000)
    none_of(dead_links(site))
    def says(name: str, words: str) -> bool:
        return words in (site / f"{name}.html").read_text(encoding="utf-8")

    none_of([f"{name} shows no outcome" for name in ("library/core/outcome", "runbook/list_positions", "runbook/calculate_risk_metrics")
             if not says(name, "gt-outcome")])
    none_of(pages_without_outputs(site, tmp_path / "cache"))


@pytest.mark.soak  # the site takes minutes to build
@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_parameters_are_explained_in_the_reference(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "api/core/config.html").read_text(encoding="utf-8"))
    assert "the machine&#39;s folder" in text or "the machine’s folder" in text or "the machine's folder" in text
    assert "validated, merged, with the source of each value" in text


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site on a web server of this machine."""
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


KINDS = ("index.html", "library/trading/permit.html", "api/core/config.html", "runbook/restore_backup.html", "configuration.html")


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[object]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        made = p.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        yield made
        made.close()


def watched(browser, address: str, **given):
    """A page, with the requests that went elsewhere and what its console complained of."""
    page = browser.new_page(**given)
    outside, problems = [], []
    page.on("request", lambda r: outside.append(r.url) if not r.url.startswith((address, "file:", "data:", "blob:")) else None)
    page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: problems.append(str(e)))
    return page, outside, problems


@pytest.mark.soak  # the site takes minutes to build
@pytest.mark.browser
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("scheme, width", [("light", 1280), ("dark", 1280), ("light", 390)])
def test_pages_need_nothing_from_outside_and_fit(address: str, browser, scheme: str, width: int) -> None:
    page, outside, problems = watched(browser, address, color_scheme=scheme, viewport={"width": width, "height": 900})
    for name in KINDS:
        page.goto(f"{address}/{name}")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), f"{name} scrolls sideways at {width}"
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        light = sum(int(n) for n in re.findall(r"\d+", colour)[:3]) > 380
        assert light == (scheme == "light"), f"{name}: {colour} in {scheme}"
    page.close()
    assert outside == [] and problems == []


@pytest.mark.soak  # the site takes minutes to build
@pytest.mark.browser
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("way", ["served", "from a folder"])
def test_the_search_finds_what_is_there(address: str, site: Path, browser, way: str) -> None:
    base = address if way == "served" else site.as_uri()
    page, outside, problems = watched(browser, address)
    for term, wanted in (("expected shortfall", "risk"), ("load_config", "core/config"), ("restore", "restore_backup")):
        page.goto(f"{base}/search.html?q={term}")
        page.wait_for_selector("ul.search li a")
        page.wait_for_function("() => /Search finished|found/.test(document.querySelector('#search-results').innerText)")
        found = page.eval_on_selector_all("ul.search li a", "all => all.map(a => a.getAttribute('href'))")
        assert any(wanted in link for link in found), (term, found[:5])
    page.close()
    assert outside == [] and problems == []


@pytest.mark.soak  # the site takes minutes to build
@pytest.mark.browser
@pytest.mark.timeout(1000)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(address: str, browser, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page, _, _ = watched(browser, address, color_scheme=scheme)

    def problems() -> Iterator[str]:
        for name in KINDS:
            page.goto(f"{address}/{name}")
            for fault in Axe().run(page).response["violations"]:
                if fault["impact"] in ("serious", "critical"):
                    yield f"{name}: {fault['id']}: {fault['help']}: {[n['html'][:160] for n in fault['nodes'][:3]]}"

    none_of(list(problems()))
    page.close()


@pytest.mark.soak  # the site takes minutes to build
@pytest.mark.browser
@pytest.mark.timeout(1000)
def test_keys_lead_through_the_pages(address: str, browser) -> None:
    page, _, _ = watched(browser, address)
    page.goto(f"{address}/getting-started.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "A", "the first stop is the link to the content"
    page.locator("body").press("ArrowRight")
    page.wait_for_url("**/tour.html")
    page.close()
