"""One bar at a time: the features of each session are the panel's, whatever arrives late, is missing, is new, or stops and starts again."""
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_trader.core.outcome import DataError
from gpt_trader.ml.definition import made_up_bars
from gpt_trader.ml.features import FEATURES, Panel, compute_features, feature
from gpt_trader.ml.incremental import IncrementalFeatures

SHORT = [name for name, f in FEATURES.items() if f.look_back <= 30]


def long(sessions: int, symbols: int) -> pd.DataFrame:
    """Made-up bars, a row a session and symbol."""
    frames = made_up_bars(sessions, symbols)
    table = pd.concat({name: frame.stack() for name, frame in frames.items()}, axis=1)
    return table.rename_axis(["session", "symbol"]).reset_index()


BARS = long(100, 4)
DAYS = np.sort(BARS["session"].unique())


def of(bars: pd.DataFrame, day: object) -> pd.DataFrame:
    return bars[bars["session"] == day]


def same(live: pd.DataFrame, batch: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(live, batch.loc[live.index], rtol=1e-9, atol=1e-12)


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_bar_by_bar_is_the_panel(data: st.DataObject) -> None:
    """Holes, a symbol that is listed on the way, one that comes late, a process that stops and starts again, the features: all drawn."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    names = [str(name) for name in rng.choice(SHORT, 40, replace=False)]
    unlisted = (BARS["symbol"] == "S1") & (BARS["session"] < DAYS[data.draw(st.integers(0, 60))])
    bars = BARS[(rng.random(len(BARS)) > data.draw(st.sampled_from([0.0, 0.02, 0.2]))) & ~unlisted]
    days = np.sort(bars["session"].unique())
    batch = compute_features(bars, names)
    begin = data.draw(st.integers(0, 50))
    one = IncrementalFeatures.from_bars(bars[bars["session"] < days[begin]], names) if begin else IncrementalFeatures(names)
    restart, late = data.draw(st.integers(begin, len(days) - 1)), data.draw(st.sets(st.integers(begin, len(days) - 1), max_size=10))
    for k in range(begin, len(days)):
        today = of(bars, days[k])
        if k in late and len(today) > 1:
            one.update(today.iloc[1:])
            live = one.amend(today.iloc[:1])
        else:
            live = one.update(today.sample(frac=1, random_state=k))
        assert len(live) == len(today)
        same(live, batch)
        if k == restart:
            one = IncrementalFeatures.from_bars(one.snapshot(), names)
            same(one.latest(), batch)


def test_every_feature_over_a_year_and_a_half() -> None:
    bars = long(300, 5)
    days = np.sort(bars["session"].unique())
    batch = compute_features(bars)
    one = IncrementalFeatures.from_bars(bars[bars["session"] < days[-12]])
    live = pd.concat([one.update(of(bars, day)) for day in days[-12:]])
    same(live, batch)
    assert list(live.columns) == list(FEATURES) and live.iloc[-5:].notna().to_numpy().mean() > 0.99


def test_bars_of_closes_alone_and_what_a_quant_wrote() -> None:
    closes = BARS[["session", "symbol", "close"]]
    one = IncrementalFeatures.from_bars(closes[closes["session"] < DAYS[-1]], ["ret_5", "rank_ret_21", "weekday"])
    same(one.update(of(closes, DAYS[-1])), compute_features(closes, ["ret_5", "rank_ret_21", "weekday"]))

    @feature("mean_5(|gap|), in pandas", look_back=6, group="test")
    def in_pandas(p: Panel) -> pd.DataFrame:
        """With data frames."""
        return np.log(p.open / p.close.shift(1)).abs().rolling(5).mean()

    try:
        one = IncrementalFeatures.from_bars(BARS[BARS["session"] < DAYS[-3]], ["in_pandas", "gap"])
        for day in DAYS[-3:]:
            live = one.update(of(BARS, day))
        pd.testing.assert_frame_equal(live, compute_features(BARS, ["in_pandas", "gap"]).loc[live.index], rtol=1e-9)
    finally:
        del FEATURES["in_pandas"]


def test_what_cannot_be_used_is_refused_and_changes_nothing() -> None:
    one = IncrementalFeatures.from_bars(BARS[BARS["session"] < DAYS[-1]], SHORT)
    before, today = one.latest(), of(BARS, DAYS[-1])
    for bars, words in ((of(BARS, DAYS[-2]), "not after"), (of(BARS, DAYS[-5]), "not after"), (today.assign(low=-1.0), "not positive"),
                        (BARS[BARS["session"] >= DAYS[-2]], "2 sessions"), (today.iloc[:0], "no bars"),
                        (today.drop(columns="high"), "high"), (pd.concat([today, today.iloc[:1]]), "two bars of S0")):
        with pytest.raises(DataError, match=words):
            one.update(bars)
    with pytest.raises(DataError, match="has its bar"):
        one.amend(of(BARS, DAYS[-2]).iloc[:1])
    with pytest.raises(DataError, match="not the newest"):
        one.amend(today)
    pd.testing.assert_frame_equal(one.latest(), before)
    same(one.update(today), compute_features(BARS, SHORT))
    with pytest.raises(DataError, match="no session"):
        IncrementalFeatures(["ret_1"]).latest()


def test_one_symbol_grows_to_two() -> None:
    """With one symbol a shared column and its own are as wide."""
    alone = BARS[(BARS["symbol"] == "S0") | (BARS["session"] >= DAYS[50])]
    one = IncrementalFeatures.from_bars(alone[alone["session"] < DAYS[50]], SHORT)
    batch = compute_features(alone, SHORT)
    for day in DAYS[50:60]:
        same(one.update(of(alone, day)), batch)
