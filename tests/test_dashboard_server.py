"""The dashboards' server in a real browser: who gets in, what is shown at once, what follows the desk, what is lost, what stays."""
import re
import signal
from http.client import HTTPConnection
from urllib.parse import urlsplit

import psutil
import pytest
from dashboard_harness import PATIENCE, PLAIN, SOAK, faults, fits, lives, serving, visiting, wait_live, wait_until

from gpt_trader.core.workspace import Workspace
from gpt_trader.dashboards.pages import PAGES, draw_page, panel_name

pytest_plugins = ("dashboard_harness",)
pytestmark = [pytest.mark.browser, pytest.mark.timeout(240)]


# ---------------------------------------------------------------- who gets in
def test_nobody_gets_in_without_the_token(dashboard):
    for path in ("/", "/operations", "/runs?as_of=2013-02-01", "/nowhere"):
        answer = dashboard.ask(path)
        assert answer.status == 401 and "gpt-trader dashboard printed" in answer.text, path
        assert "data-panel" not in answer.text
    for path in ("/api/open", "/api/alive/x", "/api/kernels/00000000-0000-0000-0000-000000000000", "/reports/index.html"):
        answer = dashboard.ask(path)
        assert answer.status in (302, 401, 403), (path, answer.status)
        assert "workspace" not in answer.text.lower()
    wrong = dashboard.ask("/?token=" + "x" * 43)
    assert wrong.status == 403 and "opens nothing" in wrong.text and "gpt-trader-" not in str(wrong.headers)


def test_the_token_becomes_a_cookie_and_stays_nowhere(dashboard, visitor):
    answer = dashboard.ask(f"/risk?token={dashboard.token}&as_of=2013-02-01")
    cookie = next(v for k, v in answer.headers.items() if k == "Set-Cookie" and v.startswith("gpt-trader-"))
    assert answer.status == 303 and answer.headers["Location"] == "/risk?as_of=2013-02-01"
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie and dashboard.token not in cookie
    elsewhere = dashboard.ask(f"//evil.example/?token={dashboard.token}")
    assert elsewhere.status in (403, 404) and "Location" not in elsewhere.headers
    page = visitor.page("operations")
    assert dashboard.token not in page.content() and "token" not in page.url
    said = dashboard.printed.read_text()
    assert said.count(dashboard.token) == 1, "the token is printed once, as part of the address"
    page.close()


def test_other_hosts_and_sites_are_refused(dashboard):
    parts = urlsplit(dashboard.base)

    def ask(method, path, **headers):
        connection = HTTPConnection(parts.hostname, parts.port, timeout=30)
        connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        return connection.getresponse().status

    assert ask("GET", "/healthz", Host="rebound.example") == 403
    assert ask("GET", "/healthz", Host=f"localhost:{parts.port}") == 200
    assert ask("POST", "/sign-in", Origin="http://evil.example") in (403, 404)
    answer = dashboard.ask(f"/?token={dashboard.token}")
    cookie = next(v for v in answer.headers.values() if v.startswith("gpt-trader-")).partition(";")[0]
    channel = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Version": "13", "Sec_WebSocket_Key": "A" * 22 + "=="}
    path = "/api/kernels/00000000-0000-0000-0000-000000000000/channels"
    assert ask("GET", path, **channel) == 403
    assert ask("GET", path, **channel, Cookie=cookie, Origin="http://evil.example") in (403, 404)
    assert ask("POST", "/voila/api/shutdown/00000000-0000-0000-0000-000000000000", Cookie=cookie) == 403, "no XSRF token"
    assert {c.laddr.ip for c in psutil.Process(dashboard.process.pid).net_connections("tcp") if c.status == "LISTEN"} == {"127.0.0.1"}


def told(pid, *secrets):
    """Whether a process was given any of these, by its environment or its command line."""
    given = str(psutil.Process(pid).environ()) + " ".join(psutil.Process(pid).cmdline())
    return any(secret in given for secret in secrets)


def test_configured_people_sign_in_with_their_own_tokens(desk, browser, tmp_path):
    file = desk / "config" / "config.yaml"
    before = file.read_text()
    try:
        file.write_text("dashboard: {tokens: {ann: env:ANNS_TOKEN, bob: env:BOBS_TOKEN}}\n")
        tokens = {"ANNS_TOKEN": "a-token-that-is-ann's", "BOBS_TOKEN": "b-token-that-is-bob's"}
        with serving(desk, env={**PLAIN, **tokens}) as server:
            assert "token=" not in server.printed.read_text()
            context = browser.new_context()
            page = context.new_page()
            page.set_default_timeout(PATIENCE)
            page.goto(server.base + "/trading")
            page.get_by_label("Token").fill(tokens["BOBS_TOKEN"])
            page.get_by_role("button", name="Sign in").click()
            wait_live(page)
            assert page.url == server.base + "/trading" and "bob" in page.locator(".gt-when").inner_text()
            pid = context.request.get(f"{server.base}/api/open").json()["processes"][0]
            assert not told(pid, *tokens, *tokens.values())
            context.close()
    finally:
        file.write_text(before)


def test_a_health_probe_starts_nothing(dashboard, visitor):
    before = visitor.processes()
    for _ in range(5):
        assert dashboard.ask("/healthz").text == '{"status": "ok"}'
    assert visitor.processes() == before


# ---------------------------------------------------------------- what is shown
@pytest.mark.parametrize("name", list(PAGES))
def test_each_page_is_sound(name, visitor, desk):
    page = visitor.page(name)
    assert page.locator("h1").inner_text() == PAGES[name].title
    shown = page.locator("[data-panel]").evaluate_all("all => all.map(e => e.dataset.panel)")
    assert shown == [panel_name(t) for t in PAGES[name].panels]
    assert "could not be shown" not in page.locator("main").inner_text()
    with Workspace.open(desk) as ws:  # the page says what the panels say, drawn here
        for panel in draw_page(ws, name):
            assert page.locator(f'[data-panel="{panel.name}"]').get_attribute("data-digest") == panel.digest()
    assert faults(page) == []
    page.set_viewport_size({"width": 390, "height": 800})
    wait_until(lambda: fits(page), "the page does not scroll sideways on a phone", 20)
    assert faults(page) == []
    page.close()


def test_dark_and_light_are_both_readable(browser, dashboard):
    with visiting(browser, dashboard, color_scheme="dark") as someone:
        page = someone.page("operations")
        dark = "getComputedStyle(document.body).backgroundColor"
        assert page.evaluate(dark) == "rgb(17, 20, 26)" and faults(page) == []
        page.get_by_role("button", name="Dark").click()
        assert page.evaluate(dark) == "rgb(246, 247, 249)" and faults(page) == []
        page.reload()
        assert page.evaluate(dark) == "rgb(246, 247, 249)", "the choice is kept"


def test_first_content_comes_before_any_process(visitor):
    visitor.page("operations").close()  # the worker has drawn it
    page = visitor.page("operations", live=False)
    page.wait_for_selector("[data-panel]")
    assert page.locator("html").get_attribute("data-connection") == "connecting"
    assert page.locator("button.gt-act:enabled").count() == 0, "a snapshot cannot act"
    wait_live(page)
    page.close()


def test_the_keyboard_reaches_everything(visitor):
    page = visitor.page("operations")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "gt-skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "gt-main"
    button = page.locator("button.gt-act:enabled").first
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.locator("dialog[open]")
    dialog.wait_for()
    assert "recorded in the journal" in dialog.inner_text() and faults(page) == []
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")
    assert page.evaluate("document.activeElement.classList.contains('gt-act')"), "focus comes back to the button"
    page.close()


# ---------------------------------------------------------------- what follows the desk
def test_the_page_follows_the_journal_without_a_reload(visitor, desk):
    page = visitor.page("operations")
    page.evaluate("window.sameDocument = true")
    page.locator("summary").first.click()
    button = page.locator("button.gt-act:enabled").first
    button.focus()
    name = button.get_attribute("data-action")
    with Workspace.open(desk) as ws:
        seq = ws.journal.append("journal.rebuilt", {"tables": []}).seq
    page.get_by_text(f"#{seq}", exact=True).wait_for()
    assert page.evaluate("window.sameDocument") is True
    assert page.locator("details[open]").count() == 1, "what was opened stays open"
    assert page.evaluate("document.activeElement.dataset.action") == name, "the focus stays"
    page.close()


# ---------------------------------------------------------------- the past
def test_a_page_of_the_past_says_so_and_cannot_act(visitor, desk):
    before = visitor.processes()
    page = visitor.page("operations?as_of=2013-02-01T21:05:00Z", live=False)
    page.wait_for_load_state()
    assert "2013-02-01 21:05:00" in page.locator(".gt-past").inner_text()
    assert page.locator("button.gt-act").count() and page.locator("button.gt-act:enabled").count() == 0
    assert page.locator("#gt-clock").inner_text() == "2013-02-01 21:05:00" and visitor.processes() == before, "the past needs no process"
    with Workspace.open(desk) as ws, ws.as_of("2013-02-01T21:05:00Z") as past:
        assert page.locator("#gt-head").inner_text() == f"#{past.journal.head().seq}"
        for panel in draw_page(past, "operations"):
            assert page.locator(f'[data-panel="{panel.name}"]').get_attribute("data-digest") == panel.digest()
    assert page.get_by_role("link", name="Risk").get_attribute("href").startswith("/risk?as_of="), "other pages keep the moment"
    assert faults(page) == []
    page.get_by_role("link", name="Back to now").click()
    wait_live(page)
    page.close()


@pytest.mark.parametrize("moment, said", [
    ("1999-01-01", "there was no workspace"), ("2999-01-01", "has not come yet"), ("yesterday", "is not a moment")])
def test_a_moment_that_cannot_be_shown_is_told(moment, said, visitor):
    visitor.expected.append("400")
    page = visitor.page(f"risk?as_of={moment}", live=False)
    assert said in page.locator("main").inner_text()
    page.close()


def test_the_as_of_control(visitor):
    page = visitor.page("trading")
    page.get_by_label("As of (UTC)").fill("2013-02-01T21:05:30")
    page.get_by_role("button", name="Show").click()
    page.wait_for_selector(".gt-past")
    assert "2013-02-01 21:05:30" in page.locator(".gt-past").inner_text()
    page.close()


# ---------------------------------------------------------------- what is lost
def test_a_page_whose_process_ends_says_so(visitor):
    visitor.expected += ["WebSocket", "404"]
    page = visitor.page("operations")
    for pid in visitor.processes():
        psutil.Process(pid).kill()
    page.wait_for_selector("#gt-lost:not([hidden])")
    assert "Connection lost" in page.locator("#gt-lost").inner_text() and page.locator("#gt-connection").inner_text() == "connection lost"
    assert page.locator("button.gt-act:enabled").count() == 0 and faults(page) == []
    page.get_by_role("button", name="Reload").click()
    wait_live(page)
    page.close()


def test_a_page_whose_server_ends_says_so_and_leaves_no_process(desk, browser):
    with serving(desk, env=PLAIN) as server, visiting(browser, server) as someone:
        someone.expected += ["WebSocket", "ERR_CONNECTION_REFUSED", "Failed to load"]
        page = someone.page("risk")
        assert len(someone.processes()) == 1 and not any(told(pid, server.token) for pid in someone.processes())
        pids = [*someone.processes(), *(c.pid for c in psutil.Process(server.process.pid).children(recursive=True))]
        server.process.send_signal(signal.SIGKILL)
        page.wait_for_selector("#gt-lost:not([hidden])")
        page.get_by_text("The dashboard's server does not answer").wait_for()
        assert page.locator("[data-panel]").count() > 0, "what was shown can still be read"
        wait_until(lambda: not any(lives(p) for p in pids), "a killed server's processes end")


# ---------------------------------------------------------------- what stays
def test_tabs_opened_and_closed_leave_no_process(browser, dashboard):
    with visiting(browser, dashboard) as someone:
        wait_until(lambda: not someone.processes(), "no page is open at first")
        many = 10 if SOAK else 4
        pages = [someone.page(list(PAGES)[n % len(PAGES)]) for n in range(many)]
        pids = someone.processes()
        assert len(pids) == many
        for page in pages[: many // 2]:
            page.close(run_before_unload=True)
        for page in pages[many // 2 :]:
            page.goto("about:blank")
            page.close()
        wait_until(lambda: not someone.processes() and not any(lives(p) for p in pids), "every process has ended", 90)


def test_no_more_pages_than_configured(desk, browser):
    file = desk / "config" / "config.yaml"
    before = file.read_text()
    try:
        file.write_text("dashboard: {pages: 1}\n")
        with serving(desk) as server, visiting(browser, server) as someone:
            first = someone.page("risk")
            second = someone.page("trading", live=False)
            second.wait_for_load_state()
            assert "All 1 places" in second.locator("#gt-stale").inner_text() and "As it was at" in second.locator("#gt-stale").inner_text()
            assert second.locator("[data-panel]").count() == len(PAGES["trading"].panels), "the page can be read"
            first.close(run_before_unload=True)
            wait_until(lambda: not someone.processes(), "the place is free")
            second.reload()
            wait_live(second)
    finally:
        file.write_text(before)


def test_a_report_opens_in_a_sandbox(visitor):
    answer = visitor.context.request.get(f"{visitor.server.base}/reports/index.html")
    assert answer.status == 200 and "sandbox allow-scripts" in answer.headers["content-security-policy"]
    missing = visitor.context.request.get(f"{visitor.server.base}/reports/none.html")
    assert missing.status == 404 and re.search("no such report", missing.text(), re.I)
    assert visitor.context.request.get(f"{visitor.server.base}/reports/../.gpt-trader/workspace.json").status in (403, 404)


def test_stopping_is_clean(desk):
    with serving(desk, env=PLAIN) as server:
        children = [c.pid for c in psutil.Process(server.process.pid).children(recursive=True)]
        assert server.stop() == 0
        wait_until(lambda: not any(lives(p) for p in children), "its worker has ended")
        assert "Traceback" not in server.printed.read_text()
