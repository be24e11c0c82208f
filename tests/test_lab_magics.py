"""The magics and cards in an IPython shell of this process: names, parameters, sentences instead of tracebacks, and what is shown."""
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

import gpt_trader
from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.outcome import Outcome, Status, UsageError
from gpt_trader.core.workspace import Workspace
from gpt_trader.dashboards.cards import card, table_of
from gpt_trader.dashboards.magics import MAGICS, completions
from gpt_trader.live.backtest import Backtest
from gpt_trader.live.replay import ReplayReport
from gpt_trader.live.riskview import RiskView
from gpt_trader.ml.evaluation import Difference, Evaluation
from gpt_trader.ml.registry import ModelVersion
from gpt_trader.risk.measures import risk_report
from gpt_trader.runbook.engine import Run
from gpt_trader.runbook.incident import Incident
from gpt_trader.trading.positions import Book, Holding


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("desk")
    Workspace.create(root, SimulatedClock(datetime(2013, 3, 1, 22, tzinfo=UTC))).close()
    return root


@pytest.fixture
def shell(desk):
    InteractiveShell.clear_instance()
    made = InteractiveShell.instance()  # what `display` publishes to
    made.run_line_magic("load_ext", "gpt_trader")
    made.run_line_magic("workspace", str(desk))
    yield made
    made.run_line_magic("unload_ext", "gpt_trader")
    InteractiveShell.clear_instance()


def ran(shell, cell: str) -> tuple[bool, str]:
    """Whether a cell succeeded, and what it printed and displayed, as text."""
    with capture_output() as out:
        result = shell.run_cell(cell)
    return bool(result.success), out.stdout + out.stderr + "\n".join(str(o.data) for o in out.outputs)


def test_loading_is_light_and_undone():
    """The package itself knows its extension by name only; what the extension needs comes when it is loaded."""
    assert "gpt_trader.dashboards" not in (Path(gpt_trader.__file__).read_text().split("import_module")[0])
    shell = InteractiveShell()
    before = set(shell.magics_manager.magics["line"])
    assert shell.run_line_magic("load_ext", "gpt_trader") is None
    assert shell.run_line_magic("reload_ext", "gpt_trader") is None
    assert set(MAGICS) <= set(shell.magics_manager.magics["line"])
    paged = shell.find_line_magic("page")
    shell.run_line_magic("unload_ext", "gpt_trader")
    assert set(shell.magics_manager.magics["line"]) == before and shell.find_line_magic("page") != paged, "IPython's own %page is back"


def test_help_lists_every_magic_with_a_sentence(shell):
    rows = shell.run_line_magic("gpt_trader", "").parts[0].rows
    assert [r["magic"] for r in rows] == [f"%{m}" for m in MAGICS] and all(r["what"].endswith(".") for r in rows)


def test_the_catalogue_with_the_workspaces_own_procedures(shell, desk):
    from gpt_trader.runbook.scaffold import make_new

    own = make_new("procedure", "count-entries", workspace=desk)
    found = shell.run_line_magic("procedures", "count_entries")
    assert [r["name"] for r in found.parts[0].rows] == ["count_entries"] and "last_hours: float = 24" in found.text()
    assert len(shell.run_line_magic("procedures", "").parts[0].rows) > 10
    own.path.unlink()


def test_a_run_is_validated_filed_and_shown(shell, desk):
    from gpt_trader.runbook.scaffold import make_new

    own = make_new("procedure", "count-entries", workspace=desk)
    ok, shown = ran(shell, "run = %run_procedure count-entries last_hours=48 'kind=workspace'\nrun")
    assert ok, shown
    run = shell.user_ns["run"]
    assert isinstance(run, Run) and run.parameters["last_hours"] == 48.0 and run.parameters["kind"] == "workspace"
    assert run.report.is_file() and "report.html" in shown and run.run_id in shown
    own.path.unlink()


@pytest.mark.parametrize("cell, said", [
    ("%run_procedure list_position", "Did you mean 'list_positions'"),
    ("%run_procedure list_positions sortby=risk", "did you mean 'sort_by'"),
    ("%run_procedure list_positions sort_by=risky", "did you mean 'risk'"),
    ("%run_procedure list_positions --execute", "unknown parameter 'execute'"),
    ("%run_procedure list_positions 'sort_by=risk", "cannot be read"),
    ("%run_procedure", "the following arguments are required: name"),
    ("%positions --sort-by size", "invalid choice"),
    ("%alerts --everything", "unrecognized arguments"),
    ("%page riks", "Did you mean 'risk'"),
    ("%procedures zzz", "no procedure's name"),
    ("%workspace /no/such/folder", "is not a workspace"),
])
def test_bad_input_is_one_sentence(shell, cell, said):
    ok, shown = ran(shell, cell)
    assert not ok and said in shown and "Traceback" not in shown and "File " not in shown


def test_the_workspace_stays_after_a_wrong_choice(shell, desk):
    ran(shell, "%workspace /no/such/folder")
    assert shell.run_line_magic("workspace", "").root == desk


@pytest.mark.parametrize("cell", ['workspace: str = ""', "positions = []", "positions", "page = 1", "procedures = alerts = None"])
def test_a_persons_own_names_are_left_to_python(shell, cell):
    """Automagic would take the first line of every procedure for %workspace."""
    shell.user_ns["positions"] = 1
    assert ran(shell, cell)[0]


@pytest.mark.parametrize("line, wanted", [
    ("%run_procedure check_m", ["check_model_performance"]),
    ("%run_procedure list_positions ", ["sort_by="]),
    ("%run_procedure list_positions sort_by=", ["pnl", "risk", "symbol", "value"]),
    ("%run_procedure restore_backup --e", ["--execute"]),
    ("%alerts ", ["--all"]),
    ("%page o", ["operations"]),
    ("%positions --sort-by v", ["value"]),
])
def test_completion(shell, line, wanted):
    magics = shell.magics_manager.registry["GptTraderMagics"]
    assert completions(magics, line) == wanted
    with provisionalcompleter():
        assert set(wanted) <= {c.text for c in shell.Completer.completions(line, len(line))}, "as a kernel asks IPython"


def test_alerts_open_and_all(shell, desk):
    from gpt_trader.core.telemetry import record_metric
    from gpt_trader.monitoring.alerts import evaluate

    with Workspace.open(desk) as ws:
        record_metric(ws, "portfolio_var", 60_000.0)
        evaluate(ws)
        fired = [r for r in ws.store.rows("SELECT * FROM alerts") if r["fired_at"]]
    panel = shell.run_line_magic("alerts", "")
    assert len(panel.parts[0].rows) == len(fired)
    assert (panel.status is Status.OK) == (not fired)
    assert len(shell.run_line_magic("alerts", "--all").parts[0].rows) >= len(fired)


# ---------------------------------------------------------------- cards
EVALUATION = Evaluation(1000, 610, 0.61, 0.58, 0.64, 0.51, 0.58, 0.609, 0.66, 0.23, 0.49, Difference(0.1, 0.07, 0.13),
                        Difference(0.03, -0.01, 0.07), "2010-01-04", "2013-03-01")


def model() -> ModelVersion:
    c = {"settings": {"kind": "range_expansion", "horizon": 1}, "rows": 11870, "first": "2000-03-30", "last": "2013-02-28",
         "known_by": "2013-03-01", "features": ["ret_1", "gap"], "code": "0.1.0+abc", "lightgbm": "4.6", "evaluation": EVALUATION.to_json(),
         "folds": [{"fold": 1, "train_rows": 2991, "test_rows": 649, "purged": 18, "test_start": "2004-03-30"}]}
    return ModelVersion("range_expansion", "2013-03-01-abcdef01", "challenger", "2013-03-01T22:00:00.000000Z", c)


def book() -> Book:
    held = Holding("AAPL", Decimal(100), Decimal(44_000), Decimal(0), Decimal(5), Decimal(0), Decimal("430.47"))
    return Book((held,), Decimal(50_000), Decimal(100_000))


def riskview() -> RiskView:
    closes = pd.DataFrame({"AAPL": [100.0 * 1.01 ** (i % 7) for i in range(600)]}, index=pd.bdate_range("2010-11-15", periods=600))
    report = risk_report({"AAPL": 43_047.0}, closes, equity=93_047.0)
    positions = pd.DataFrame([{"symbol": "AAPL", "quantity": 100.0, "average_price": 440.0, "mark": 430.47, "value": 43_047.0,
                               "weight": 0.46, "unrealised": -953.0, "realised": 0.0, "var": report.var, "share_of_var": 1.0}])
    limits = pd.DataFrame([{"limit": "max_var", "value": report.var, "allowed": 1.0, "used": 2.0, "status": "critical"}])
    return RiskView(date(2013, 3, 1), book(), report, positions, limits)


def a_backtest() -> Backtest:
    report = ReplayReport(date(2013, 2, 28), date(2013, 3, 1), 2, 2, 0, 0, Decimal("5010000"), Decimal("10000"), 48_000.0, 70_000.0, 0.01,
                          0.02, 1, 1, 0, 0, 0, 0, 1, "naive", 0.1)
    equity = pd.Series([5_000_000.0, 5_010_000.0], pd.to_datetime(["2013-02-28", "2013-03-01"]))
    orders = pd.DataFrame([{"session": "2013-03-01", "symbol": "AAPL", "side": "buy", "quantity": "100", "type": "market",
                            "status": "filled", "filled_quantity": "100", "average_price": "430.47", "fees": "0.5",
                            "reason": "<b>none</b>"}])
    fills = pd.DataFrame([{"at": "2013-03-01T14:30:00.000000Z", "symbol": "AAPL", "side": "buy", "quantity": "100", "price": "430.47",
                           "fee": "0.5", "realised": "0"}])
    return Backtest(report, equity, pd.DataFrame(), orders, fills)


def incident() -> Incident:
    return Incident("INC-000068", 68, "portfolio_var", "Portfolio VaR exceeds limit", "VaR is 60,000", "P2", "risk", "risk_limit_breach",
                    "2013-01-10", "open", "2013-01-10T21:05:00.000000Z", None, "none", None, None, 0, None, None, None, None, None, 70)


CARDS = [
    (lambda: Outcome(Status.WARNING, "one position is large", {"share": 0.41, "rows": [{"symbol": "AAPL"}]}, ("list_positions",)),
     "warning", "%run_procedure list_positions"),
    (lambda: EVALUATION, "warning", "58.0 % to 64.0 %"),
    (model, "warning", "11,870 rows"),
    (book, None, "43,047.00"),
    (riskview, "critical", "max_var"),
    (lambda: riskview().report, None, "43,047.00"),
    (a_backtest, None, "430.47"),
    (incident, "warning", "VaR is 60,000"),
]


@pytest.mark.parametrize("make, status, holds", CARDS, ids=lambda x: getattr(x, "__name__", None))
def test_cards_say_it_as_html_and_as_text(shell, make, status, holds):
    obj = make()
    panel = card(obj)
    assert (panel.status and str(panel.status)) == status
    assert holds in panel.html() and holds in panel.text() and "<b>none</b>" not in panel.html()
    json.dumps(panel.to_json())
    with capture_output() as out:
        shell.display_formatter.format(obj)
    assert "gt-panel" in out.outputs[0].data["text/html"] and holds in out.outputs[0].data["text/plain"]
    plots = [o for o in out.outputs if "application/vnd.plotly.v1+json" in o.data]
    assert len(plots) == len(panel.figures()) and all(p.data["text/plain"].startswith("[figure] ") for p in plots)


def test_a_backtests_returns_and_contributions_add_up():
    rows = card(riskview().report).parts[1].rows
    assert sum(r["share_of_var"] for r in rows) == pytest.approx(1)


def test_what_has_no_card_says_what_has():
    with pytest.raises(UsageError, match="int has no card.*Backtest"):
        card(3)


def test_tables_take_what_is_not_known():
    table = table_of(pd.DataFrame({"session": pd.to_datetime(["2013-03-01", None]), "value": [1.5, float("nan")]}))
    assert table.rows == [{"session": "2013-03-01", "value": 1.5}, {"session": None, "value": None}]
    assert [c.kind for c in table.columns] == ["date", "money"]
