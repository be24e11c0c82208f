"""Labels and splits: what is known when, and no split that lets the test be seen."""
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_trader.core.outcome import DataError, UsageError
from gpt_trader.dataflow.datasets import adjusted
from gpt_trader.dataflow.providers import EmbeddedProvider
from gpt_trader.ml.labels import make_labels
from gpt_trader.ml.splits import assert_no_leak, leaking_rows, walk_forward_folds

PROVIDER = EmbeddedProvider()
BARS = adjusted(pd.concat([PROVIDER.bars(symbol) for symbol in ("AAPL", "IBM")], ignore_index=True))
LABELS = make_labels(BARS)


def table(sessions: int, horizon: int, symbols: int = 2) -> pd.DataFrame:
    """A label table on business days, as `make_labels` lays it out."""
    days = pd.bdate_range("2001-01-01", periods=sessions)
    index = pd.MultiIndex.from_product([days, [f"S{k}" for k in range(symbols)]], names=["session", "symbol"])
    ends = pd.Series(days, index=days).shift(-horizon).reindex(index.get_level_values("session"))
    return pd.DataFrame({"label": 1.0, "label_end": ends.to_numpy()}, index=index)


def overlaps(labels: pd.DataFrame, train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The definition, row by row: [session, label_end] of a training row meets that of a test row."""
    starts = labels.index.get_level_values("session").to_numpy()
    ends = labels["label_end"].fillna(starts.max()).to_numpy()
    return np.array([any(starts[i] <= ends[j] and starts[j] <= ends[i] for j in test) for i in train], dtype=bool)


@settings(max_examples=40, deadline=None)
@given(sessions=st.integers(300, 900), horizon=st.integers(1, 21), years=st.floats(0.3, 1.1), embargo=st.integers(0, 30))
def test_folds_are_purged_embargoed_expanding_and_complete(sessions: int, horizon: int, years: float, embargo: int) -> None:
    labels = table(sessions, horizon)
    days = labels.index.get_level_values("session")
    unique, ends = days.unique(), labels["label_end"]
    folds = list(walk_forward_folds(labels, min_train_years=years, embargo_sessions=embargo))
    tested = np.concatenate([fold.test for fold in folds])
    assert (np.diff(tested) == 1).all() and tested[-1] == len(labels) - 1  # each row once, in order, to the end
    for before, fold in zip([None, *folds[:-1]], folds, strict=True):
        assert_no_leak(labels, fold.train, fold.test)
        assert not overlaps(labels, fold.train[-80:], fold.test[:80]).any()
        assert ends.iloc[fold.train].notna().all()
        gap = unique.get_loc(fold.test_start) - unique.get_loc(ends.iloc[fold.train].max())
        assert gap > embargo
        # nothing is thrown away that could have been kept
        left_out = np.setdiff1d(np.arange(fold.test[0]), fold.train)
        assert len(left_out) == fold.purged
        deadline = unique[unique.get_loc(fold.test_start) - 1 - embargo]
        assert all(not e <= deadline for e in ends.iloc[left_out])
        assert before is None or set(before.train) <= set(fold.train)
        assert fold.test_start.year == fold.test_end.year  # yearly refits


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_detector_agrees_with_the_definition(data: st.DataObject) -> None:
    labels = table(60, data.draw(st.integers(1, 10)), symbols=1)
    rows = data.draw(st.permutations(range(60)))
    cut = data.draw(st.integers(1, 59))
    train, test = np.array(rows[:cut]), np.array(rows[cut:])[:: data.draw(st.integers(1, 20))]
    assert (leaking_rows(labels, train, test) == overlaps(labels, train, test)).all()


def test_a_shuffled_split_is_caught() -> None:
    known = LABELS[LABELS["label"].notna()]
    rows = np.random.default_rng(11).permutation(len(known))
    with pytest.raises(DataError, match="leak"):
        assert_no_leak(known, rows[: len(rows) * 4 // 5], rows[len(rows) * 4 // 5:])
    assert leaking_rows(known, rows[: len(rows) * 4 // 5], rows[len(rows) * 4 // 5:]).mean() > 0.5


def test_a_split_by_date_without_purging_is_caught() -> None:
    fold = list(walk_forward_folds(LABELS, min_train_years=4, embargo_sessions=0))[2]
    with pytest.raises(DataError, match="2 of"):
        assert_no_leak(LABELS, np.arange(fold.test[0]), fold.test)
    assert_no_leak(LABELS, fold.train, fold.test)


def test_training_on_the_future_is_caught_even_without_overlap() -> None:
    with pytest.raises(DataError, match="not before"):
        assert_no_leak(LABELS, np.arange(2000, 3000), np.arange(100, 200))


@pytest.mark.parametrize("wrong", [{"min_train_years": 0}, {"embargo_sessions": -1}])
def test_lengths_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        list(walk_forward_folds(LABELS, **({"min_train_years": 4, "embargo_sessions": 5} | wrong)))


def test_a_history_that_is_too_short_is_refused() -> None:
    with pytest.raises(DataError, match="too few"):
        list(walk_forward_folds(LABELS.loc[:"2002"], min_train_years=4, embargo_sessions=5))
    with pytest.raises(DataError, match="purging"):
        list(walk_forward_folds(table(300, 250), min_train_years=0.5, embargo_sessions=5))


def test_labels_by_their_definition() -> None:
    wide = BARS.assign(range=(BARS["high"] - BARS["low"]) / BARS["close"])
    for symbol, own in wide.groupby("symbol"):
        own = own.set_index("session")
        labels = LABELS.xs(symbol, level="symbol")
        for t in range(40, len(own) - 1, 321):
            median = np.median(own["range"].iloc[t - 20: t + 1])
            assert labels["label"].iloc[t] == float(own["range"].iloc[t + 1] > median)
            assert labels["naive"].iloc[t] == labels["label"].iloc[t - 1]
            assert labels["label_end"].iloc[t] == own.index[t + 1]
    assert LABELS.loc[BARS["session"].max(), "label"].isna().all()
    assert LABELS.loc[: BARS["session"].iloc[2 * 19], "label"].isna().all()


@pytest.mark.parametrize("horizon", [1, 5])
def test_a_known_label_never_changes(horizon: int) -> None:
    cut = make_labels(BARS[BARS["session"] <= "2009-06-30"], "direction", horizon=horizon)
    whole = make_labels(BARS, "direction", horizon=horizon)
    same = cut.index[cut["label_end"].notna()]
    pd.testing.assert_frame_equal(cut.loc[same], whole.loc[same])
    assert cut["label_end"].isna().sum() == 2 * horizon and cut.loc[cut["label_end"].isna(), "label"].isna().all()
    assert (whole["naive"] == whole.groupby("symbol")["label"].shift(horizon)).sum() == whole["naive"].notna().sum()
