"""Features: point-in-time by construction, the same for the batch and for tonight, and blind to how prices are scaled."""
import importlib.util
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from gpt_trader.core.outcome import DataError, UsageError
from gpt_trader.dataflow.datasets import adjusted
from gpt_trader.dataflow.providers import EmbeddedProvider
from gpt_trader.ml.definition import reads
from gpt_trader.ml.features import (
    FEATURES,
    MODULES,
    Panel,
    available_features,
    catalogue,
    compute_features,
    feature,
    features_hash,
    look_ahead,
    to_panel,
)
from gpt_trader.ml.windows import MOMENTS, SUM, Ladder

SYMBOLS = ("AAPL", "GOOG", "IBM", "MSFT")
PROVIDER = EmbeddedProvider()
BARS = adjusted(pd.concat([PROVIDER.bars(symbol) for symbol in SYMBOLS], ignore_index=True))
SESSIONS = BARS["session"].drop_duplicates().sort_values().reset_index(drop=True)
WHOLE = compute_features(BARS)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, len(SESSIONS) - 1))
def test_a_row_does_not_change_when_later_bars_are_taken_away(position: int) -> None:
    assert look_ahead(BARS, [SESSIONS[position]]) == []


@settings(max_examples=8, deadline=None)
@given(st.integers(0, len(SESSIONS) - 1), st.integers(1, 5))
def test_the_tail_equals_the_batch(position: int, sessions: int) -> None:
    known = BARS[BARS["session"] <= SESSIONS[position]]
    tail = compute_features(known, sessions=sessions)
    pd.testing.assert_frame_equal(tail, WHOLE.loc[tail.index], rtol=1e-6, atol=1e-8)
    assert tail.index.get_level_values("session").nunique() == min(sessions, position + 1)


def test_each_feature_reads_no_further_back_than_it_says() -> None:
    """Prices before the look back are changed beyond recognition; the newest row must not notice."""
    for look_back in sorted({f.look_back for f in FEATURES.values()}):
        names = [name for name, f in FEATURES.items() if f.look_back == look_back]
        wrecked = BARS[BARS["session"] >= SESSIONS.iloc[-2 * look_back - 5]].copy()
        old = wrecked["session"] < SESSIONS.iloc[-look_back]
        wrecked.loc[old, ["open", "high", "low", "close"]] *= np.where(np.arange(old.sum()) % 2, 3.0, 0.4)[:, None]
        wrecked.loc[old, "volume"] = 1 + wrecked.loc[old, "volume"] // 7
        here = compute_features(wrecked, names).loc[SESSIONS.iloc[-1]]
        there = WHOLE.loc[SESSIONS.iloc[-1], names]
        pd.testing.assert_frame_equal(here, there, rtol=1e-9, atol=1e-12, obj=str(look_back))


def test_each_feature_is_known_as_soon_as_its_look_back_is_filled() -> None:
    aapl = WHOLE.xs("AAPL", level="symbol")
    first = {name: int(np.flatnonzero(np.isfinite(aapl[name]))[0]) for name in FEATURES}
    assert all(f.warm_up <= first[name] <= f.warm_up + 1 for name, f in FEATURES.items()), {
        name: (f.warm_up, first[name]) for name, f in FEATURES.items() if not f.warm_up <= first[name] <= f.warm_up + 1}


def test_there_are_many_and_each_is_documented() -> None:
    known = catalogue()
    assert len(known) >= 160 and (known[["group", "formula", "doc"]] != "").all(axis=None) and not known["formula"].duplicated().any()
    assert set(known["group"]) == {"return", "volatility", "range", "trend", "oscillator", "volume", "calendar", "market", "cross-section",
                                   "candle", "price"}
    assert {f.compute.__module__ for f in FEATURES.values()} == {m.__name__ for m in MODULES}


def test_alpha158_agrees_with_plain_pandas() -> None:
    """All of its 158 factors, written a second time; and every one of qlib's names is there."""
    spec = importlib.util.spec_from_file_location("plain_features", Path(__file__).parents[1] / "benchmarks/plain_features.py")
    assert spec is not None and spec.loader is not None
    plain = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plain)
    ours = WHOLE.swaplevel().sort_index()
    theirs = dict(plain.plain_features(BARS))
    assert len(theirs) == 158
    for name, values in theirs.items():
        np.testing.assert_allclose(ours[name].to_numpy(), values.to_numpy(), rtol=1e-7, atol=1e-10, err_msg=name)


def test_sums_do_not_drift() -> None:
    """A day of a trillion shares, long past, leaves no trace in later windows. Against a recomputation of each window: relative 1e-12."""
    rng = np.random.default_rng(5)
    x = rng.lognormal(0, 0.1, (2500, 2))
    x[100] = 1e12
    for n in (5, 20, 60, 252):
        windows = sliding_window_view(x, n, axis=0)
        (total,), (_, squares) = Ladder(SUM, [x]).at(n), Ladder(MOMENTS, [x]).at(n)
        clean = slice(101, None)
        np.testing.assert_allclose(total[clean], windows.sum(axis=-1)[clean], rtol=1e-12)
        np.testing.assert_allclose(squares[clean], (windows.var(axis=-1) * n)[clean], rtol=1e-11)
    flat = Ladder(MOMENTS, [np.full((300, 1), 0.1)]).at(60)[1]
    assert (flat == 0).all()


def test_symbols_that_can_be_computed_alone_are_found_out() -> None:
    """What is computed in parts, by threads, is what is computed at once; what compares symbols is not computed in parts."""
    own = {name for name, f in FEATURES.items() if reads(f).apart}
    assert all(FEATURES[name].group not in ("market", "cross-section") for name in own)
    assert {name for name, f in FEATURES.items() if f.group not in ("market", "cross-section")} == own
    parts = compute_features(BARS, n_jobs=2, batch_size=1)
    pd.testing.assert_frame_equal(parts, WHOLE, rtol=1e-12, atol=0)


def test_a_later_split_or_dividend_changes_no_feature() -> None:
    """Adjustment rescales a whole history by a constant; features must be ratios."""
    scaled = BARS.assign(**{c: BARS[c] * 0.0625 for c in ("open", "high", "low", "close")}, volume=BARS["volume"] * 16.0)
    pd.testing.assert_frame_equal(compute_features(scaled), WHOLE, rtol=1e-6, atol=1e-8)


def test_a_feature_that_looks_ahead_is_caught() -> None:
    @feature("ln(close[+1] / close)", look_back=1, group="test")
    def looks_ahead(p: Panel) -> pd.DataFrame:
        """Tomorrow's return."""
        return p.returns.shift(-1)

    try:
        assert look_ahead(BARS, ["2008-10-10"]) == ["looks_ahead"]
    finally:
        del FEATURES["looks_ahead"]


def test_formulas_by_hand() -> None:
    aapl = BARS[BARS["symbol"] == "AAPL"].set_index("session")
    row = WHOLE.loc[("2010-06-15", "AAPL")]
    upto = aapl[:"2010-06-15"]
    last = upto.iloc[-1]
    assert row["ret_5"] == pytest.approx(np.log(last["close"] / upto["close"].iloc[-6]))
    assert row["gap"] == pytest.approx(np.log(last["open"] / upto["close"].iloc[-2]))
    window = upto.tail(21)
    assert row["parkinson_21"] == pytest.approx(np.sqrt((np.log(window["high"] / window["low"]) ** 2).mean() / (4 * np.log(2))))
    garman_klass = 0.5 * np.log(window["high"] / window["low"]) ** 2 - (2 * np.log(2) - 1) * np.log(window["close"] / window["open"]) ** 2
    assert row["garman_klass_21"] == pytest.approx(np.sqrt(garman_klass.mean()))
    c, o, h, low = (window[k] for k in ("close", "open", "high", "low"))
    assert row["rogers_satchell_21"] == pytest.approx(np.sqrt((np.log(h / c) * np.log(h / o) + np.log(low / c) * np.log(low / o)).mean()))
    ranges = (window["high"] - window["low"]) / window["close"]
    assert row["range_ratio"] == pytest.approx(np.log(ranges.iloc[-1] / ranges.median()))
    before = upto["close"].shift(1)
    true_range = pd.concat([upto["high"], before], axis=1).max(axis=1) - pd.concat([upto["low"], before], axis=1).min(axis=1)
    assert row["atr_14"] == pytest.approx(true_range.tail(14).mean() / last["close"])
    moves = np.log(upto["close"]).diff().tail(14)
    assert row["rsi_14"] == pytest.approx(moves.clip(lower=0).sum() / moves.abs().sum())
    assert row["close_position"] == pytest.approx((last["close"] - last["low"]) / (last["high"] - last["low"]))


def test_a_hole_is_unknown_and_a_new_listing_changes_nothing() -> None:
    hole = BARS[~((BARS["symbol"] == "IBM") & (BARS["session"] == "2010-05-07"))]
    holed = compute_features(hole)
    assert ("2010-05-07", "IBM") not in holed.index
    assert np.isnan(holed.loc[("2010-05-10", "IBM"), "ret_1"]) and not np.isnan(holed.loc[("2010-05-11", "IBM"), "ret_1"])
    own = [name for name, f in FEATURES.items() if f.group not in ("market", "cross-section")]
    pd.testing.assert_frame_equal(holed.xs("AAPL", level="symbol")[own], WHOLE.xs("AAPL", level="symbol")[own])
    young = BARS["session"] < "2004-08-19"
    assert not (BARS.loc[young, "symbol"] == "GOOG").any()
    pd.testing.assert_frame_equal(compute_features(BARS[BARS["symbol"] != "GOOG"]).loc[:"2004-08-18"], WHOLE.loc[:"2004-08-18"])


@pytest.mark.parametrize(("bars", "words"), [
    (BARS.drop(columns="high"), "high"), (BARS.iloc[:0], "no bars"), (pd.concat([BARS, BARS.tail(1)]), "repeated"),
    (BARS.assign(low=BARS["low"].where(BARS.index != 5, -1.0)), "not positive")])
def test_bars_that_cannot_be_used_are_refused(bars: pd.DataFrame, words: str) -> None:
    with pytest.raises(DataError, match=words):
        to_panel(bars)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="ret_21"):
        compute_features(BARS, ["ret_2l"])
    with pytest.raises(UsageError):
        compute_features(BARS, sessions=0)


def test_the_hash_tells_definitions_apart() -> None:
    names = list(FEATURES)
    assert features_hash(names) == features_hash() != features_hash(names[::-1])


def test_the_batch_takes_less_than_two_seconds_of_the_processor() -> None:
    started = process_time()
    compute_features(BARS)
    assert process_time() - started < 2


def test_no_infinity_gets_through() -> None:
    silent = BARS.assign(volume=BARS["volume"].where(BARS["session"] != "2010-05-07", 0))
    table = compute_features(silent)
    assert not np.isinf(table.to_numpy()).any() and np.isnan(table.loc[("2010-05-07", "IBM"), "relative_volume"])


def test_features_that_lack_their_inputs_are_dropped_by_name() -> None:
    kept, dropped = available_features(["session", "symbol", "close"])
    assert {"ret_5", "volatility_21", "rsi_14", "beta_63", "weekday"} <= set(kept)
    assert dropped["parkinson_21"] == "needs high, low, which the bars lack" and "volume" in dropped["relative_volume"]
    closes = BARS[["session", "symbol", "close"]]
    pd.testing.assert_frame_equal(compute_features(closes, kept), WHOLE[kept])
    for name in dropped:
        with pytest.raises(DataError, match=name):
            compute_features(closes, [name])
    assert available_features(BARS.columns) == (list(FEATURES), {})
    assert available_features(["session", "symbol", "close", "volume"], ["gap", "relative_volume"])[0] == ["relative_volume"]
    with pytest.raises(DataError, match="close"):
        available_features(["session", "symbol"])
    with pytest.raises(DataError, match="high"):
        to_panel(closes)
    with pytest.raises(DataError, match="the bars lack volume"):
        _ = to_panel(closes, allow_missing=True).volume
