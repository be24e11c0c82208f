"""The embedded data, the actions derived from it, the quality checks, the feed and the network provider, through the package."""
import csv
import gzip
import hashlib
import importlib.metadata
import importlib.resources
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gpt_trader.core.calendar import get_calendar
from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.outcome import DataError, Status, StorageError, UsageError
from gpt_trader.core.secret import Secret
from gpt_trader.core.workspace import Workspace
from gpt_trader.dataflow.datasets import adjusted, as_bars, content_hash, corporate_actions, dataset_folder, read_manifest
from gpt_trader.dataflow.feed import ReplayFeed
from gpt_trader.dataflow.ingestion import ingest
from gpt_trader.dataflow.providers import EmbeddedProvider, HttpCsv, ParquetFolder
from gpt_trader.dataflow.quality import check_bars, check_workspace
from gpt_trader.runbook.engine import run_procedure

XNYS, EMBEDDED = get_calendar("XNYS"), EmbeddedProvider()
BARS = as_bars(pd.concat([EMBEDDED.bars(s) for s in EMBEDDED.symbols()]))


def test_importing_the_package_imports_no_pandas() -> None:
    code = "import sys, gpt_trader.dataflow as d; assert 'pandas' not in sys.modules; d.load_bars; assert 'requests' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_embedded_rows_are_the_recorded_ones() -> None:
    record = EMBEDDED.provenance["file"]
    data = (importlib.resources.files("gpt_trader") / "_data" / "market" / "stocks.parquet").read_bytes()
    assert hashlib.sha256(data).hexdigest() == record["sha256"] and len(data) < 300_000
    assert content_hash(BARS) == record["content_sha256"] and len(BARS) == record["rows"] == 12154
    spans = {s: (len(g), f"{g.session.min():%Y-%m-%d}", f"{g.session.max():%Y-%m-%d}") for s, g in BARS.groupby("symbol")}
    assert spans == {s: (e["rows"], e["first"], e["last"]) for s, e in EMBEDDED.provenance["symbols"].items()}


def test_the_embedded_rows_are_the_publishers() -> None:
    """Read with the csv module, so that no number passes through the code that made the file."""
    try:
        wheel = importlib.metadata.distribution("bokeh_sampledata")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("bokeh_sampledata, the source of the embedded data, is not installed")
    source = EMBEDDED.provenance["source"]
    raw = Path(str(wheel.locate_file(source["file"]))).read_bytes()
    assert hashlib.sha256(raw).hexdigest() == source["sha256"]
    rows = list(csv.DictReader(gzip.decompress(raw).decode().splitlines()))
    ours = {(r.symbol, f"{r.session:%Y-%m-%d}"): r for r in BARS.itertuples()}
    assert len(ours) == len(rows)
    for row in rows:
        mine = ours[row["Ticker"], row["Date"]]
        assert [mine.open, mine.high, mine.low, mine.close, mine.volume, mine.adj_close] == [
            float(row[c]) for c in ("Open", "High", "Low", "Close", "Volume", "Adj Close")]


def test_every_session_is_there_and_the_suspicious_rows_are_named() -> None:
    report = check_bars(BARS, XNYS)
    assert report.status == Status.WARNING and report.usable
    grave = report.findings[report.findings.severity != "note"]
    assert {(f.check, f.symbol, f"{f.session:%Y-%m-%d}") for f in grave.itertuples()} == {
        ("stale_row", "AAPL", "2003-01-29"), ("wick", "AAPL", "2008-10-17"), ("wick", "MSFT", "2008-07-01")}


def test_the_known_splits_and_dividends_are_recovered() -> None:
    actions = corporate_actions(BARS)
    splits = actions[actions.kind == "split"]
    assert {(a.symbol, f"{a.session:%Y-%m-%d}", a.ratio) for a in splits.itertuples()} == {
        ("AAPL", "2000-06-21", 2.0), ("AAPL", "2005-02-28", 2.0), ("MSFT", "2003-02-18", 2.0)}
    paid = actions[actions.kind == "dividend"].set_index(["symbol", "session"]).amount
    for symbol, day, amount in (("AAPL", "2013-02-07", 2.65), ("MSFT", "2013-02-19", 0.23), ("IBM", "2013-02-06", 0.85),
                                ("MSFT", "2004-11-15", 3.08)):
        assert paid[symbol, pd.Timestamp(day)] == amount
    assert len(paid) == 92 and paid["IBM"].size == 52 and actions.uncertainty.max() < 1e-6


@settings(max_examples=60, deadline=None)
@given(closes=st.lists(st.integers(500, 50_000), min_size=3, max_size=30), decimals=st.integers(2, 6),
       dividend=st.integers(1, 400), at=st.integers(1, 28), scale=st.floats(0.05, 1.0))
def test_a_recovered_dividend_lies_within_its_stated_uncertainty(closes, decimals, dividend, at, scale) -> None:
    """Generated prices: whatever the rounding, the interval holds the truth, and a day without an action is never reported."""
    close = np.array(closes) / 100
    at = 1 + at % (len(close) - 1)
    amount = dividend / 100
    assume(amount < 0.1 * close[at])  # a day's fall beside a larger one can be read as a split, and no rule can tell
    factor = np.where(np.arange(len(close)) < at, 1 / (1 + amount / close[at]), 1.0) * scale
    days = XNYS.sessions(date(2012, 1, 3), date(2012, 4, 30))[:len(close)]
    bars = as_bars(pd.DataFrame({"session": days, "symbol": "TEST", "open": close, "high": close, "low": close, "close": close,
                                 "volume": 100, "adj_close": np.round(close * factor, decimals)}))
    found = corporate_actions(bars)
    dividends = found[found.kind == "dividend"]
    assert set(found.session) <= {pd.Timestamp(days[at])}
    assert (dividends.uncertainty + 1e-9 >= (dividends.amount - amount).abs()).all()


def test_adjusting_keeps_shape_and_is_idempotent() -> None:
    out = adjusted(BARS)
    assert list(out.columns) == list(BARS.columns) and np.allclose(out.open / out.close, BARS.open / BARS.close)
    assert (out.close == BARS.adj_close).all() and adjusted(out).equals(out)
    returns = out[out.symbol == "MSFT"].close.pct_change()
    assert abs(returns[out.session == "2003-02-18"].item() - 0.03354) < 1e-5


def test_damaged_embedded_data_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    provider = EmbeddedProvider()
    provider.provenance["file"]["sha256"] = "0" * 64
    with pytest.raises(StorageError, match="Install gpt_trader again"):
        provider.bars("IBM")


def test_a_parquet_folder_names_row_and_column(tmp_path: Path) -> None:
    ibm = EMBEDDED.bars("IBM", date(2013, 2, 20)).drop(columns="symbol")
    ibm.assign(close=ibm.close.mask(ibm.index == 3)).to_parquet(tmp_path / "IBM.parquet")
    with pytest.raises(DataError, match="row 4, column close: the value is missing"):
        ParquetFolder(tmp_path).bars("IBM")


def test_the_feed_never_shows_what_has_not_closed() -> None:
    clock = SimulatedClock(datetime(2013, 1, 2, 12, tzinfo=UTC))
    feed = ReplayFeed(BARS, XNYS, clock)
    for day in XNYS.sessions(date(2013, 1, 2), date(2013, 1, 31)):
        opens, closes = XNYS.open_close(day)
        clock.set(opens)
        for ask in (feed.bar, feed.history, feed.actions):
            with pytest.raises(UsageError, match="has not closed yet"):
                ask(day)
        clock.set(closes)
        assert feed.history(day).session.max() == feed.bar(day).session.max() == pd.Timestamp(day)
    with pytest.raises(UsageError):
        feed.history(date(2030, 1, 1))
    assert feed.simulated


class _Server(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        seen = self.server.seen  # type: ignore[attr-defined]
        seen.append((self.path, self.headers.get("Authorization")))
        if "MOVED" in self.path:
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/daily/IBM.csv")  # type: ignore[attr-defined]
            self.end_headers()
            return
        status = 503 if "DOWN" in self.path or ("FLAKY" in self.path and len(seen) < 3) else 401 if "AUTH" in self.path else 200
        body = b"date,open,high,low,close,volume\n2013-03-01,1,2,1,2,10\n" if status == 200 else b"no"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) + ("SHORT" in self.path)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Silence: the test reads `seen`."""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), _Server) as made:
        made.seen = []  # type: ignore[attr-defined]
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def http(server: HTTPServer, path: str = "/daily/{symbol}.csv", **more) -> HttpCsv:
    symbols = ["IBM", "FLAKY", "DOWN", "AUTH", "SHORT", "MOVED"]
    return HttpCsv(f"http://127.0.0.1:{server.server_port}{path}", symbols, retries=3, backoff=0.001, timeout=(2, 2), **more)


def test_the_network_provider_retries_and_gives_up_with_one_sentence(server: HTTPServer) -> None:
    assert http(server).bars("FLAKY").close.item() == 2 and len(server.seen) == 3  # type: ignore[attr-defined]
    server.seen.clear()  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="answered 503"):
        http(server).bars("DOWN")
    assert len(server.seen) == 4  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="Check the token"):
        http(server).bars("AUTH")
    with pytest.raises(DataError, match="does not deliver"):
        http(server).bars("SHORT")
    with pytest.raises(UsageError, match="Did you mean 'IBM'"):
        http(server).bars("IBN")


def test_a_server_that_is_not_there_is_one_sentence() -> None:
    with HTTPServer(("127.0.0.1", 0), _Server) as closed:
        port = closed.server_port
    with pytest.raises(DataError, match="does not deliver"):
        HttpCsv(f"http://127.0.0.1:{port}/{{symbol}}", ["IBM"], retries=1, backoff=0.001).bars("IBM")


def test_the_token_travels_only_where_it_may(server: HTTPServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DATA_TOKEN", "s3cret-value")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(netrc))
    token = Secret("env:DATA_TOKEN")
    http(server, token=token).bars("IBM")
    assert server.seen[-1] == ("/daily/IBM.csv", "Bearer s3cret-value")  # type: ignore[attr-defined]
    http(server, token=token).bars("MOVED")
    assert server.seen[-1] == ("/daily/IBM.csv", None), "another host"  # type: ignore[attr-defined]
    span = (date(2013, 1, 1), date(2013, 3, 1))
    http(server, "/{symbol}?key={token}&from={start}&to={end}", token=token, span=span).bars("IBM")
    assert server.seen[-1] == ("/IBM?key=s3cret-value&from=2013-01-01&to=2013-03-01", None)  # type: ignore[attr-defined]
    with pytest.raises(DataError) as refusal:
        http(server, "/{symbol}?key={token}", token=token).bars("DOWN")
    assert "s3cret" not in str(refusal.value) and "s3cret" not in repr(http(server, token=token).__dict__)
    with pytest.raises(UsageError, match="plain HTTP"):
        HttpCsv("http://data.example.com/{symbol}", ["IBM"], token)


def test_the_procedure_judges_what_the_workspace_holds(tmp_path: Path) -> None:
    with Workspace.create(tmp_path / "desk") as ws:
        ws.simulate(datetime(2013, 3, 1, 22, tzinfo=UTC))
        assert check_workspace(ws)[1].status == Status.UNKNOWN
        ingest(ws, EMBEDDED)
        run = run_procedure(ws, "validate-data-quality", {"symbol": "ALL"}, text=True)
        assert run.error is None and run.exit_code == 1 and run.outcome.figures["warning"] == 3 and run.outcome.figures["rows"] == 11958
        assert run.report.is_file() and run.outcome.figures["symbols"] == ["AAPL", "GOOG", "IBM", "MSFT"]
        assert check_workspace(ws, ["IBM"])[1].status == Status.OK
        assert run_procedure(ws, "validate_data_quality", {"symbol": "ibm,IBN"}).exit_code == 64
        path = dataset_folder(ws) / read_manifest(ws)["MSFT"]["file"]
        path.write_bytes(path.read_bytes()[:-1])
        broken = check_workspace(ws)[1].to_outcome()
        assert broken.status == Status.CRITICAL and "damaged" in broken.figures["findings"][0] and broken.figures["rows"] == 11958
