"""Kept features: found again only where nothing has changed, never trusted when damaged, bounded, and rebuilt on request."""
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.workspace import Workspace
from gpt_trader.dataflow.datasets import adjusted, load_bars
from gpt_trader.dataflow.ingestion import ingest
from gpt_trader.dataflow.providers import EmbeddedProvider
from gpt_trader.ml import featurecache
from gpt_trader.ml.definition import made_up_bars
from gpt_trader.ml.featurecache import cache_key, cached_features, drop_features, kept_features, rebuild_features
from gpt_trader.ml.features import FEATURES, Panel, compute_features, feature
from gpt_trader.runbook.engine import run_procedure

NAMES = ["ret_5", "roc_5", "corr_10", "rank_ret_21", "weekday"]


def long(sessions: int, symbols: int) -> pd.DataFrame:
    """Made-up bars, a row a session and symbol."""
    table = pd.concat({name: frame.stack() for name, frame in made_up_bars(sessions, symbols).items()}, axis=1)
    return table.rename_axis(["session", "symbol"]).reset_index()


BARS = long(80, 3)


@pytest.fixture
def ws(tmp_path: Path) -> Iterator[Workspace]:
    with Workspace.create(tmp_path / "desk") as made:
        yield made


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often features are really computed, from here on."""
    calls: list[int] = []

    def computing(*args: object, **kwargs: object) -> pd.DataFrame:
        calls.append(1)
        return compute_features(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(featurecache, "compute_features", computing)
    return calls


def test_what_has_not_changed_is_found_again(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    first, second = cached_features(ws, BARS, NAMES), cached_features(ws, BARS.sample(frac=1, random_state=1), NAMES)
    assert len(calls) == 1 and len(kept_features(ws)) == 1
    pd.testing.assert_frame_equal(first, compute_features(BARS, NAMES))
    pd.testing.assert_frame_equal(second, first, check_index_type=False, check_exact=True)


def test_whatever_changes_makes_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    key = cache_key(BARS, NAMES)
    nudged = BARS.assign(close=BARS["close"].where(BARS.index != 100, np.nextafter(BARS["close"], np.inf)))
    others = [cache_key(nudged, NAMES), cache_key(BARS.iloc[:-1], NAMES), cache_key(BARS, NAMES[::-1]), cache_key(BARS, NAMES[:-1]),
              cache_key(BARS.assign(symbol=BARS["symbol"].replace("S1", "S9")), NAMES),
              cache_key(BARS.assign(session=BARS["session"] + pd.Timedelta(days=7)), NAMES)]
    monkeypatch.setattr(featurecache, "code_hash", lambda: "another line of code")
    others.append(cache_key(BARS, NAMES))
    assert len({key, *others}) == len(others) + 1
    monkeypatch.undo()
    assert cache_key(BARS.assign(open=1.0), NAMES) == key, "none of these features reads the open"


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "note", "swap"])
def test_a_damaged_table_is_computed_again_and_said(ws: Workspace, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    whole = cached_features(ws, BARS, NAMES)
    (kept,) = kept_features(ws)
    file = ws.cache_dir / "features" / f"{kept.key}.parquet"
    note = file.with_suffix(".json")
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage == "cut":
        file.write_bytes(data[:-100])
    elif damage == "gone":
        file.unlink()
    elif damage == "note":
        note.write_text("{")
    else:  # another table's bytes under this key
        (whole * 2).to_parquet(file)
    calls = counted(monkeypatch)
    pd.testing.assert_frame_equal(cached_features(ws, BARS, NAMES), whole)
    assert len(calls) == 1
    lines = [line for log in ws.logs_dir.rglob("*") if log.is_file() for line in log.read_text().splitlines()]
    said = [json.loads(line) for line in lines if "kept_table" in line]
    assert len(said) == 1 and kept.key in said[0]["file"]
    pd.testing.assert_frame_equal(cached_features(ws, BARS, NAMES), whole)
    assert len(calls) == 1, "it was kept again"


def test_it_is_bounded_and_the_longest_unasked_goes_first(ws: Workspace) -> None:
    tables = [long(80, 3).assign(close=lambda t, k=k: t["close"] * (1 + k / 1000)) for k in range(4)]
    cached_features(ws, tables[0], NAMES)
    size = kept_features(ws)[0].bytes
    for table in tables[1:]:
        cached_features(ws, table, NAMES)
    assert len(kept_features(ws)) == 4
    featurecache._keep(ws, "0" * 64, compute_features(BARS, NAMES), 0.1, int(2.5 * size))
    assert [one.key for one in kept_features(ws)][-1] == "0" * 64 and sum(one.bytes for one in kept_features(ws)) <= 2.5 * size
    cached_features(ws, long(60, 3), NAMES, limit_mb=0)
    assert cache_key(long(60, 3), NAMES) not in {one.key for one in kept_features(ws)}, "larger than the limit"
    assert drop_features(ws) > 0 and kept_features(ws) == [] and not list((ws.cache_dir / "features").iterdir())


def test_what_a_notebook_defined_is_not_kept(ws: Workspace) -> None:
    @feature("open / close", look_back=1, group="test")
    def of_a_notebook(p: Panel) -> pd.DataFrame:
        """Its code may change under its name."""
        return p.open / p.close

    try:
        cached_features(ws, BARS, ["of_a_notebook"])
        assert kept_features(ws) == []
    finally:
        del FEATURES["of_a_notebook"]


def test_rebuilding_compares_with_the_bars(ws: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    cached_features(ws, BARS, NAMES)
    (good,) = rebuild_features(ws, BARS, {"few": NAMES})
    assert good.verified and good.rows == len(BARS) and good.bytes > 0 and len(kept_features(ws)) == 1
    monkeypatch.setattr(featurecache, "_find", lambda ws, key: compute_features(BARS, NAMES) + 1e-6)
    (bad,) = rebuild_features(ws, BARS, {"few": NAMES})
    assert not bad.verified


def test_the_procedure_says_rebuilds_and_asks_back(tmp_path: Path) -> None:
    with Workspace.create(tmp_path / "desk", SimulatedClock(datetime(2010, 1, 4, 23, tzinfo=UTC))) as ws:
        ingest(ws, EmbeddedProvider(), ["AAPL", "IBM"])
        known = adjusted(load_bars(ws, ["AAPL", "IBM"], end="2010-01-04"))
        cached_features(ws, known, NAMES)
        dry = run_procedure(ws, "rebuild_features").outcome
        assert dry.status == "ok" and dry.summary.startswith("Dry run") and len(kept_features(ws)) == 1 and dry.figures["dropped"] == 1
        (old,) = kept_features(ws)
        done = run_procedure(ws, "rebuild-features", {"execute": True}).outcome
        (new,) = kept_features(ws)
        assert (done.status, done.verification) == ("ok", "verified") and done.recommended == ("rebuild_predictions",)
        assert old.key != new.key == cache_key(known, ws.config.models.feature_sets["base"])
        said = done.figures["sets"]["base"]
        assert (said["features"], said["rows"], said["bytes"]) == (40, len(known), new.bytes) and done.figures["dropped_bytes"] == old.bytes
        wrong = run_procedure(ws, "rebuild_features", {"feature_set": "bas"})
        assert wrong.exit_code == 64
