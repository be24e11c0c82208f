"""Bad files, merges, interruptions: what an ingest may and may not do to a workspace."""
import json
import os
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpt_trader.core.calendar import get_calendar
from gpt_trader.core.outcome import DataError, Status, StorageError, UsageError
from gpt_trader.core.workspace import Workspace
from gpt_trader.dataflow import datasets
from gpt_trader.dataflow.datasets import adjustments, as_bars, commit_bars, dataset_folder, load_bars, read_manifest, verify_dataset
from gpt_trader.dataflow.ingestion import ingest, ingest_folder, merge_bars, quarantine_folder
from gpt_trader.dataflow.providers import EmbeddedProvider

EMBEDDED = EmbeddedProvider()
IBM = EMBEDDED.bars("IBM", date(2013, 1, 2)).drop(columns="symbol")


@pytest.fixture
def ws(tmp_path: Path):
    with Workspace.create(tmp_path / "desk") as made:
        yield made


@pytest.fixture
def held(ws: Workspace) -> Workspace:
    """A workspace that holds the last two years of IBM and MSFT."""
    for symbol in ("IBM", "MSFT"):
        commit_bars(ws, {symbol: EMBEDDED.bars(symbol, date(2011, 1, 3))}, {symbol: {"provider": "test"}})
    return ws


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def write(folder: Path, **texts: str | bytes | pd.DataFrame) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in texts.items():
        data = content.to_csv(index=False) if isinstance(content, pd.DataFrame) else content
        (folder / f"{name}.csv").write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def cell(row: int, column: str, value: object) -> pd.DataFrame:
    """IBM's rows with one cell replaced by what a broken export might hold."""
    frame = IBM.astype({column: object})
    frame.loc[row, column] = value
    return frame


HEAD = "date,open,high,low,close,volume,adj_close\n"
BAD = {
    "empty file": ("", "IBM.csv: the file is empty"),
    "header only": (HEAD, "no row below it"),
    "missing columns": (IBM.drop(columns=["close", "volume"]), "columns close, volume are missing"),
    "negative price": (cell(4, "close", -1.0), "line 6: IBM 2013-01-08: close is not positive: -1.0"),
    "zero price": (cell(4, "open", 0.0), "open is not positive: 0.0"),
    "negative volume": (cell(0, "volume", -5), "volume cannot be: -5"),
    "duplicated day": (pd.concat([IBM, IBM.tail(1)]), "line 43: IBM 2013-03-01: the day stands there more than once"),
    "unparsable number": (cell(2, "high", "1,95.3x"), "line 4, column high: '1,95.3x' is not a number"),
    "missing number": (cell(2, "low", ""), "line 4, column low: the value is missing"),
    "infinite number": (cell(2, "low", "inf"), "'inf' is not a number"),
    "fractional volume": (cell(2, "volume", 1.5), "whole number of shares"),
    "no date": (IBM.assign(session="soon"), "line 2, column session: 'soon' is not a date"),
    "ambiguous date": (IBM.assign(session=IBM.session.dt.strftime("%d/%m/%Y")), "is not a date YYYY-MM-DD"),
    "a Sunday": (IBM.assign(session=IBM.session.mask(IBM.index == 3, pd.Timestamp("2013-01-06"))), "does not trade on that day"),
    "high below low": (cell(2, "high", 1.0), "contradict one another"),
    "from the future": (IBM.assign(session=IBM.session.mask(IBM.index == 40, pd.Timestamp("2027-01-04"))), "the clock shows"),
    "a field too many": (HEAD + "2013-03-01,1,2,1,2,10,2,9\n", "line 2: 8 fields where the header has 7"),
    "not text": (b"\xff\xfe\x00\x01", "not UTF-8"),
    "open quote": (HEAD + '2013-03-01,"1,2,1,2,10,2\n', "line 2"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_whole_and_nothing_is_lost(held: Workspace, tmp_path: Path, name: str) -> None:
    content, said = BAD[name]
    folder = write(tmp_path / "in", IBM=content)
    given_bytes, before = (folder / "IBM.csv").read_bytes(), files(dataset_folder(held))
    with pytest.raises(DataError, match="IBM.csv") as refusal:
        ingest_folder(held, folder)
    assert refusal.value.exit_code == 65
    assert said in str(refusal.value)
    assert files(dataset_folder(held)) == before and (folder / "IBM.csv").read_bytes() == given_bytes
    copies = list(quarantine_folder(held).iterdir())
    assert len(copies) == 1 and (copies[0] / "IBM.csv").read_bytes() == given_bytes
    record = json.loads((copies[0] / "findings.json").read_text())
    assert record["symbol"] == "IBM" and record["findings"] and record["findings"][0]["severity"] == "critical"
    with pytest.raises(DataError):
        ingest_folder(held, folder)
    assert list(quarantine_folder(held).iterdir()) == copies, "refused again, it is not copied again"


def test_several_bad_files_are_one_message(held: Workspace, tmp_path: Path) -> None:
    folder = write(tmp_path / "in", IBM=BAD["negative price"][0], MSFT="", AAPL=IBM, GOOG=BAD["missing columns"][0])
    before = files(dataset_folder(held))
    with pytest.raises(DataError, match="3 of 4 symbols refused") as refusal:
        ingest_folder(held, folder)
    for part in ("IBM.csv: line 6", "MSFT.csv: the file is empty", "GOOG.csv: the columns close, volume"):
        assert part in str(refusal.value)
    assert files(dataset_folder(held)) == before


def test_a_hole_is_kept_and_named(ws: Workspace, tmp_path: Path) -> None:
    holed = IBM[~IBM.session.isin(pd.to_datetime(["2013-01-15", "2013-01-16", "2013-02-12"]))]
    report = ingest_folder(ws, write(tmp_path / "in", IBM=holed))
    holes = report.findings[report.findings.check == "missing_session"].message.tolist()
    assert holes == ["IBM 2013-01-15: 2 sessions missing: 2013-01-15, 2013-01-16", "IBM 2013-02-12: 1 session missing: 2013-02-12"]
    assert report.to_outcome().status == Status.WARNING and len(load_bars(ws)) == len(holed)


def test_headers_order_and_case_do_not_matter(ws: Workspace, tmp_path: Path) -> None:
    vendor = IBM.iloc[::-1].rename(columns={"session": "Timestamp", "open": " OPEN", "adj_close": "Adj Close"})[
        ["volume", "Adj Close", "Timestamp", " OPEN", "high", "low", "close"]]
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "ibm.CSV").write_bytes(b"\xef\xbb\xbf" + vendor.to_csv(index=False).replace("\n", "\r\n").encode())
    assert ingest_folder(ws, tmp_path / "in").to_outcome().status == Status.OK
    assert load_bars(ws).equals(EMBEDDED.bars("IBM", date(2013, 1, 2)))


def test_a_source_without_adjusted_close_is_told_and_does_not_wipe_it_out(held: Workspace, tmp_path: Path) -> None:
    before = load_bars(held)
    folder = write(tmp_path / "in", IBM=IBM.drop(columns="adj_close"), AAPL=IBM.drop(columns="adj_close"))
    report = ingest_folder(held, folder)
    assert [n.partition(":")[0] for n in report.notes if "no adjusted close" in n] == ["AAPL", "IBM"]
    assert report.merges[1].changed == 0 and load_bars(held, ["IBM"]).equals(before[before.symbol == "IBM"].reset_index(drop=True))
    apple = load_bars(held, ["AAPL"])
    assert (apple.close == apple.adj_close).all() and not read_manifest(held)["AAPL"]["source"]["adjusted"]


def test_newer_rows_without_adjusted_close_carry_the_last_scale_on(ws: Workspace, tmp_path: Path) -> None:
    commit_bars(ws, {"IBM": EMBEDDED.bars("IBM", date(2012, 1, 3), date(2013, 2, 19))}, {"IBM": {"provider": "test"}})
    report = ingest_folder(ws, write(tmp_path / "in", IBM=IBM.drop(columns="adj_close")))
    assert report.merges[0].added == 8 and report.merges[0].changed == 0
    assert np.allclose(load_bars(ws).adj_close, EMBEDDED.bars("IBM", date(2012, 1, 3)).adj_close, rtol=1e-12)
    assert (adjustments(load_bars(ws)).kind == "dividend").all()


def test_a_changed_past_row_is_a_revision_and_the_old_file_is_kept(held: Workspace, tmp_path: Path) -> None:
    old = read_manifest(held)["IBM"]
    report = ingest_folder(held, write(tmp_path / "in", IBM=cell(5, "close", 193.0)))
    row = report.revisions.squeeze()
    assert (row.symbol, row.session, row.column, row.before, row.after) == ("IBM", pd.Timestamp("2013-01-09"), "close", 192.32, 193.0)
    outcome = report.to_outcome()
    assert outcome.status == Status.WARNING and outcome.figures["revisions"] == ["IBM 2013-01-09 close: 192.32 became 193"]
    entry = read_manifest(held)["IBM"]
    assert entry["superseded"] == [old["file"]] and entry["earlier"][0]["sha256"] == old["sha256"]
    assert verify_dataset(held) == [] and load_bars(held, ["IBM"], "2013-01-09", "2013-01-09").close.item() == 193.0
    ingest_folder(held, write(tmp_path / "in", IBM=cell(5, "close", 192.5)))
    assert len([f for f in files(dataset_folder(held)) if "IBM" in f]) == 3, "later writes keep it, too"


def test_a_history_on_another_footing_shows_where_it_meets_the_stored_one(ws: Workspace, tmp_path: Path) -> None:
    commit_bars(ws, {"IBM": EMBEDDED.bars("IBM", date(2012, 1, 3), date(2013, 1, 31))}, {"IBM": {"provider": "test"}})
    february = IBM[IBM.session >= "2013-02-01"]
    report = ingest_folder(ws, write(tmp_path / "in", IBM=february.assign(adj_close=february.close)))
    assert [f.check for f in report.findings.itertuples() if f.severity == "warning"] == ["unexplained_adjustment"]


def test_unknown_symbols_and_folders(held: Workspace, tmp_path: Path) -> None:
    folder = write(tmp_path / "in", IBM=IBM, APPL=IBM)
    with pytest.raises(UsageError, match="Did you mean 'IBM'"):
        ingest_folder(held, folder, ["IBN"])
    report = ingest_folder(held, folder, ["appl"])
    assert any("APPL: not among the instruments" in n and "if AAPL is meant" in n for n in report.notes)
    with pytest.raises(UsageError, match="Did you mean 'AAPL'"):
        ingest(held, EMBEDDED, ["AAPLE"])
    with pytest.raises(UsageError, match="Did you mean 'MSFT'"):
        load_bars(held, ["MFST"])
    for empty in (tmp_path / "nowhere", tmp_path / "desk"):
        with pytest.raises(UsageError, match="AAPL.csv"):
            ingest_folder(held, empty)
    with pytest.raises(DataError, match="does not name a symbol"):
        ingest_folder(held, write(tmp_path / "odd", **{"my prices": IBM}))
    (folder / "Ibm.CSV").write_text("")
    with pytest.raises(DataError, match="are both IBM"):
        ingest_folder(held, folder)


def test_no_data_is_one_sentence(ws: Workspace) -> None:
    with pytest.raises(DataError, match="gpt-trader ingest"):
        load_bars(ws)


def test_an_ingest_waits_its_turn_and_names_the_holder(held: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = held.lock
    monkeypatch.setattr(held, "lock", lambda name, timeout=0: lock(name, 0.1))
    other, folder = Workspace.open(held.root), write(tmp_path / "in", IBM=IBM)
    with other.lock("data"), pytest.raises(StorageError, match=f"process {os.getpid()}"):
        ingest_folder(held, folder)
    other.close()


@pytest.mark.parametrize("fails_at", range(4))
def test_a_full_disk_leaves_the_dataset_as_it_was(held: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int) -> None:
    """Three writes: two symbols, the manifest. Whichever fails, readers see the old data; the next ingest clears up and succeeds."""
    folder = write(tmp_path / "in", IBM=cell(5, "close", 193.0), AAPL=IBM)
    before, rows, writes, real = read_manifest(held), load_bars(held), [], datasets.write_atomically

    def full(path: Path, data: bytes) -> None:
        writes.append(path)
        if len(writes) == fails_at + 1:
            raise StorageError(f"{path.name} could not be written: No space left on device")
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(datasets, "write_atomically", full)
        if fails_at == 3:
            ingest_folder(held, folder)
            assert len(writes) == 3
            return
        with pytest.raises(StorageError, match="No space left"):
            ingest_folder(held, folder)
    assert read_manifest(held) == before and load_bars(held).equals(rows) and verify_dataset(held) == []
    assert ingest_folder(held, folder).to_outcome().figures["added"] == len(IBM)
    listed = {name for e in read_manifest(held).values() for name in (e["file"], *e["superseded"])}
    assert set(files(dataset_folder(held))) == listed | {"manifest.json"}, "nothing unlisted is left"


def test_a_refusal_is_told_even_where_quarantine_cannot_be_written(held: Workspace, tmp_path: Path) -> None:
    quarantine_folder(held).parent.mkdir(parents=True, exist_ok=True)
    quarantine_folder(held).write_text("a file stands in its place")
    with pytest.raises(DataError, match="(?s)close is not positive.*no copies could be put into quarantine"):
        ingest_folder(held, write(tmp_path / "in", IBM=BAD["negative price"][0]))


def test_a_damaged_file_is_replaced_only_by_a_source_that_covers_it(held: Workspace, tmp_path: Path) -> None:
    path = dataset_folder(held) / read_manifest(held)["IBM"]["file"]
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(StorageError, match="damaged"):
        load_bars(held)
    with pytest.raises(StorageError, match="damaged"):
        ingest_folder(held, write(tmp_path / "in", IBM=IBM))
    assert any("was damaged" in note for note in ingest(held, EMBEDDED, ["IBM"]).notes)
    assert verify_dataset(held) == [] and len(load_bars(held, ["IBM"])) == 3270


def test_a_manifest_from_a_newer_version_or_a_broken_one_is_refused(held: Workspace) -> None:
    path = dataset_folder(held) / "manifest.json"
    data = json.loads(path.read_text())
    for text, said in ((json.dumps({**data, "format": 99}), "newer version"), ("{", "cannot be read"), ("[]", "cannot be read")):
        path.write_text(text)
        with pytest.raises(StorageError, match=said):
            load_bars(held)


def test_a_simulated_clock_may_hold_sessions_to_come(ws: Workspace) -> None:
    ws.simulate(datetime(2012, 6, 1, tzinfo=UTC))
    assert ingest(ws, EMBEDDED, ["FB"]).merges[0].added == 196
    assert read_manifest(ws)["FB"]["ingested_at"] == "2012-06-01T00:00:00.000000Z"


SESSIONS = get_calendar("XNYS").sessions(date(2012, 1, 3), date(2012, 3, 30))
cents = st.integers(1, 100_000).map(lambda c: c / 100)


@st.composite
def generated_bars(draw: st.DrawFn) -> pd.DataFrame:
    """Generated prices (not market data): a few sessions, any order, prices in cents that contradict nothing."""
    rows = []
    for day in draw(st.lists(st.sampled_from(SESSIONS), min_size=1, max_size=12, unique=True)):
        prices = sorted(draw(st.tuples(cents, cents, cents, cents)))
        first, last = (prices[1], prices[2]) if draw(st.booleans()) else (prices[2], prices[1])
        rows.append((day, first, prices[3], prices[0], last, draw(st.integers(0, 10**9)), draw(cents)))
    return pd.DataFrame(rows, columns=["date", "open", "high", "low", "close", "volume", "adj_close"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(first=generated_bars(), second=generated_bars())
def test_merging_twice_is_merging_once(first: pd.DataFrame, second: pd.DataFrame) -> None:
    old, new = (as_bars(f.rename(columns={"date": "session"}).assign(symbol="TEST")) for f in (first, second))
    merge = merge_bars(old, new)
    again = merge_bars(merge.bars, new)
    assert (again.added, again.changed, again.unchanged) == (0, 0, len(new)) and again.bars.equals(merge.bars)
    assert len(merge.bars) == len(old) + merge.added == len(set(first.date) | set(second.date))
    assert merge.bars[merge.bars.session.isin(new.session)].reset_index(drop=True).equals(new)
    untouched = ~old.session.isin(new.session)
    assert merge.bars[~merge.bars.session.isin(new.session)].reset_index(drop=True).equals(old[untouched].reset_index(drop=True))


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(first=generated_bars(), second=generated_bars())
def test_ingesting_twice_is_ingesting_once(tmp_path_factory: pytest.TempPathFactory, first: pd.DataFrame, second: pd.DataFrame) -> None:
    root = tmp_path_factory.mktemp("property")
    with Workspace.create(root / "desk") as ws:
        ingest_folder(ws, write(root / "a", TEST=first))
        ingest_folder(ws, write(root / "b", TEST=second))
        once = files(dataset_folder(ws))
        again = ingest_folder(ws, root / "b").merges[0]
        assert (again.added, again.changed, again.unchanged) == (0, 0, len(second)) and files(dataset_folder(ws)) == once
        assert verify_dataset(ws) == []
