"""Each leak is caught by its name, the honest split by none; and the splits for search and judgement leak nothing, row by row."""
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_trader.core.outcome import DataError, UsageError
from gpt_trader.dataflow.datasets import adjusted
from gpt_trader.dataflow.providers import EmbeddedProvider
from gpt_trader.ml.crossval import combinatorial_folds, paths, purged_kfold
from gpt_trader.ml.features import FEATURES, compute_features, feature
from gpt_trader.ml.labels import make_labels
from gpt_trader.ml.leaks import assert_no_leaks, check_leaks
from gpt_trader.ml.splits import walk_forward_folds
from gpt_trader.ml.weights import average_uniqueness

PROVIDER = EmbeddedProvider()
BARS = adjusted(pd.concat([PROVIDER.bars(symbol) for symbol in ("AAPL", "IBM")], ignore_index=True))
BARS = BARS[BARS["session"] < "2008"]
LABELS = make_labels(BARS, "triple_barrier", horizon=10, profit_take=2.0, stop_loss=1.0).dropna()
USED = ["ret_1", "ret_21", "range_ratio", "rsi_14"]
TABLE = compute_features(BARS, USED).loc[LABELS.index]
FOLDS = list(walk_forward_folds(LABELS, min_train_years=4, embargo_sessions=5))


def names(leaks) -> set[str]:
    return {leak.name for leak in leaks}


@pytest.fixture
def peeking() -> Iterator[str]:
    """A registered feature that reads tomorrow's high, and hides it in a mean."""
    @feature("mean_5(high[+1]) / close", look_back=6, group="price")
    def peeking_mean(p):
        """It reads tomorrow."""
        return p.high.shift(-1).rolling(5).mean() / p.close

    yield "peeking_mean"
    FEATURES.pop("peeking_mean")


# ---------------------------------------------------------------- the detector
def test_honest_splits_pass() -> None:
    for fold in FOLDS:
        assert check_leaks(LABELS, fold.train, fold.test, features=TABLE, bars=BARS) == []
    for cross in (*purged_kfold(LABELS, 5), *combinatorial_folds(LABELS, 6, 2)):
        assert check_leaks(LABELS, cross.train, cross.test, walk_forward=False) == []


def test_a_shuffled_split_is_caught_by_name() -> None:
    rows = np.random.default_rng(3).permutation(len(LABELS))
    train, test = rows[: len(rows) * 4 // 5], rows[len(rows) * 4 // 5:]
    found = {leak.name: leak for leak in check_leaks(LABELS, train, test, walk_forward=False)}
    assert set(found) == {"shuffled split", "overlapping label"} and "sessions train as well" in found["shuffled split"].detail
    with pytest.raises(DataError, match="shuffled split"):
        assert_no_leaks(LABELS, train, test)
    days = LABELS.index.get_level_values("session")
    dealt = np.random.default_rng(4).permutation(days.nunique()) % 5
    number = days.unique().get_indexer(days)  # whole days are dealt: no day stands on both sides
    whole_days = check_leaks(LABELS, np.flatnonzero(dealt[number] != 0), np.flatnonzero(dealt[number] == 0), walk_forward=False)
    assert "shuffled split" in names(whole_days) and "take turns" in str(whole_days[0])


def test_a_feature_that_peeks_is_caught_by_its_own_name(peeking: str) -> None:
    fold = FOLDS[1]
    found = check_leaks(LABELS, fold.train, fold.test, bars=BARS, names=[*USED, peeking])
    assert [(leak.name, leak.subject) for leak in found] == [("peeking feature", peeking)]
    with pytest.raises(DataError, match=r"peeking feature \(peeking_mean\)"):
        assert_no_leaks(LABELS, fold.train, fold.test, bars=BARS, names=[peeking])


def test_a_label_that_overlaps_the_test_is_caught_and_only_that() -> None:
    fold = FOLDS[2]
    unpurged = np.arange(fold.test[0])
    found = check_leaks(LABELS, unpurged, fold.test, features=TABLE, bars=BARS)
    first = LABELS.index.get_level_values("session")[fold.test[0]]
    by_hand = int((LABELS["label_end"].iloc[unpurged] >= first).sum())
    assert [leak.name for leak in found] == ["overlapping label"] and f"{by_hand} of {len(unpurged):,}" in found[0].detail
    with pytest.raises(DataError, match="overlapping label"):
        assert_no_leaks(LABELS, unpurged, fold.test)


def test_training_on_the_future_and_the_label_itself_are_caught() -> None:
    fold = FOLDS[0]
    later = np.arange(fold.test[-1] + 200, len(LABELS))
    assert names(check_leaks(LABELS, later, fold.test)) == {"training on the future"}
    assert check_leaks(LABELS, later, fold.test, walk_forward=False) == []
    spoiled = TABLE.assign(outcome=LABELS["value"], noisy=-LABELS["label"])
    found = check_leaks(LABELS, fold.train, fold.test, features=spoiled)
    assert [(leak.name, leak.subject) for leak in found] == [("label among the features", "outcome"), ("label among the features", "noisy")]
    with pytest.raises(DataError, match="needs both"):
        check_leaks(LABELS, fold.train, fold.test[:0])


# ---------------------------------------------------------------- splits
def brute(labels: pd.DataFrame, test: np.ndarray, embargo: int) -> list[int]:
    """Which rows may train, by the definition: row against row."""
    sessions = labels.index.get_level_values("session")
    number = sessions.unique().get_indexer(sessions)
    ends = sessions.unique().get_indexer(pd.DatetimeIndex(labels["label_end"].fillna(sessions[-1])))
    kept = []
    for row in range(len(labels)):
        apart = all(ends[row] < number[j] or number[row] > ends[j] + embargo for j in test)
        if row not in set(test) and apart and pd.notna(labels["label_end"].iloc[row]):
            kept.append(row)
    return kept


@settings(max_examples=25, deadline=None)
@given(sessions=st.integers(60, 90), horizon=st.integers(1, 6), folds=st.integers(2, 5), embargo=st.integers(0, 4), seed=st.integers(0, 99))
def test_purged_folds_keep_exactly_what_may_train(sessions: int, horizon: int, folds: int, embargo: int, seed: int) -> None:
    rng, days = np.random.default_rng(seed), pd.bdate_range("2001-01-01", periods=sessions)
    index = pd.MultiIndex.from_product([days, ["A", "B"]], names=["session", "symbol"])
    at = np.repeat(np.arange(sessions), 2) + rng.integers(1, horizon + 1, 2 * sessions)
    ends = pd.Series(np.where(at < sessions, days.to_numpy()[np.minimum(at, sessions - 1)], np.datetime64("NaT")), index=index)
    labels = pd.DataFrame({"label": 1.0, "label_end": ends})
    for fold in purged_kfold(labels, folds, embargo):
        assert fold.train.tolist() == brute(labels, fold.test, embargo)
    made = list(combinatorial_folds(labels, 5, 2, embargo))
    assert made[3].train.tolist() == brute(labels, made[3].test, embargo)


def test_combinatorial_paths_take_each_test_once() -> None:
    folds = list(combinatorial_folds(LABELS, 6, 2))
    routes = paths(folds, 6)
    assert len(folds) == 15 and routes.shape == (5, 6)
    for block in range(6):
        assert sorted(routes[:, block]) == sorted(f.number for f in folds if block in f.blocks)
    with pytest.raises(UsageError):
        paths(folds[:-1], 6)
    with pytest.raises(UsageError):
        list(combinatorial_folds(LABELS, 6, 6))
    with pytest.raises(DataError, match="folds"):
        list(purged_kfold(LABELS.iloc[:6], 5))


# ---------------------------------------------------------------- labels and weights
def test_triple_barrier_by_its_definition_row_by_row() -> None:
    whole = make_labels(BARS, "triple_barrier", window=15, horizon=7, profit_take=1.5, stop_loss=0.75)
    judged = make_labels(BARS, "meta", window=15, horizon=7, profit_take=1.5, stop_loss=0.75, rule="reversal")
    days = sorted(BARS["session"].unique())
    for symbol, own in BARS.groupby("symbol"):
        closes = np.log(own.set_index("session")["close"])
        moves = closes.diff()
        for t in [*range(20, len(closes) - 8, 173), len(closes) - 4]:
            scale = moves.iloc[t - 14: t + 1].std()
            side = -np.sign(closes.iloc[t] - closes.iloc[t - 15])
            for made, sign in ((whole, 1.0), (judged, side)):
                row, ahead = made.loc[(closes.index[t], symbol)], sign * (closes.iloc[t + 1: t + 8] - closes.iloc[t]) / scale
                hit = next((k for k, moved in enumerate(ahead) if moved >= 1.5 or moved <= -0.75), 6 if len(ahead) == 7 else None)
                if hit is None or sign == 0:
                    assert np.isnan(row["label"])
                    continue
                assert row["label_end"] == ahead.index[hit] and row["value"] == pytest.approx(ahead.iloc[hit])
                assert row["label"] == float(ahead.iloc[hit] > 0)
    # the naive rule repeats the newest label that had ended by then
    one = whole.xs("IBM", level="symbol")
    for t in range(60, 1500, 97):
        ended = one[(one["label_end"] <= days[t]) & one["label"].notna()]
        assert one["naive"].loc[days[t]] == ended["label"].iloc[-1]


@pytest.mark.parametrize(("kind", "options"), [("horizon_return", {}), ("triple_barrier", {"profit_take": 2.0, "stop_loss": 1.0}),
                                               ("meta", {"profit_take": 2.0, "stop_loss": 1.0, "rule": "momentum"})])
def test_a_known_label_of_any_kind_never_changes(kind: str, options: dict) -> None:
    cut, whole = (make_labels(b, kind, horizon=10, **options) for b in (BARS[BARS["session"] <= "2005-06-30"], BARS))
    known = cut[cut["label"].notna()]
    pd.testing.assert_frame_equal(known, whole.loc[known.index])
    assert (known["label"] == (known["value"] > 0)).all() and (known["label_end"] <= "2005-06-30").all()
    wrong = {**options, "profit_take": -1.0} if options else {"rule": "momentum"}
    with pytest.raises(UsageError, match="wants"):
        make_labels(BARS, kind, **wrong)


def test_uniqueness_by_hand() -> None:
    days = pd.bdate_range("2001-01-01", periods=6)
    index = pd.MultiIndex.from_arrays([days[[0, 1, 1]], ["A", "A", "B"]], names=["session", "symbol"])
    ends = pd.Series(days[[3, 5, 2]], index=index)
    # A's labels span sessions 1-3 and 2-5: they share 2 and 3; B is alone
    assert average_uniqueness(ends, days).tolist() == pytest.approx([(1 + 0.5 + 0.5) / 3, (0.5 + 0.5 + 1 + 1) / 4, 1.0])
    with pytest.raises(DataError, match="no end"):
        average_uniqueness(ends.where(ends > days[2]))
