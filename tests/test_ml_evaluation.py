"""Figures against hand-computed ones, and an interval that does not flatter."""
import math

import numpy as np
import pandas as pd
import pytest

from gpt_trader.core.outcome import DataError, Status
from gpt_trader.ml.evaluation import NOTHING, Difference, Evaluation, block_difference, evaluate, wilson
from gpt_trader.ml.prediction import accuracy_verdict

SMALL = pd.DataFrame({
    "session": ["2013-01-02", "2013-01-02", "2013-01-03", "2013-01-03", "2013-01-04", "2013-01-04"],
    "probability": [0.9, 0.4, 0.6, 0.2, 0.6, 0.7], "predicted": [1, 0, 1, 0, 1, 1], "naive": [1, 1, 0, 0, 0, 1],
    "majority": [1, 1, 1, 1, 1, 1], "label": [1, 1, 0, 0, 1, np.nan]})


def test_every_figure_by_hand() -> None:
    e = evaluate(SMALL, block_sessions=1)
    assert (e.n, e.correct, e.accuracy, e.base_rate) == (5, 3, 0.6, 0.6)
    assert (e.majority, e.naive) == (3 / 5, 4 / 5)
    assert e.balanced_accuracy == pytest.approx((2 / 3 + 1 / 2) / 2)
    # yes: .9 .4 .6, no: .6 .2; pairs won 2 + 1 + 1, tied 1
    assert e.auc == pytest.approx((4 + 0.5) / 6)
    assert e.brier == pytest.approx((0.1**2 + 0.6**2 + 0.6**2 + 0.2**2 + 0.4**2) / 5)
    z, p, n = 1.959963984540054, 0.6, 5
    centre, half = (p + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert (e.low, e.high) == (pytest.approx(centre - half), pytest.approx(centre + half))
    assert e.versus_naive is not None and e.versus_naive.value == pytest.approx(-0.2)
    assert (e.first, e.last) == ("2013-01-02", "2013-01-04") and not e.beats_both


def test_unknown_labels_are_neither_hits_nor_misses() -> None:
    assert evaluate(SMALL.assign(label=np.nan)) == NOTHING and evaluate(SMALL.iloc[:0]) == NOTHING
    flipped = SMALL.assign(predicted=SMALL["predicted"].where(SMALL["label"].notna(), 0))
    assert evaluate(flipped) == evaluate(SMALL)
    with pytest.raises(DataError, match="majority"):
        evaluate(SMALL.drop(columns="majority"))
    with pytest.raises(DataError):
        wilson(0, 0)


def test_the_evaluation_survives_json() -> None:
    import json

    for e in (evaluate(SMALL), NOTHING):
        assert Evaluation.from_json(json.loads(json.dumps(e.to_json()))) == e


def test_the_block_interval_is_deterministic_and_covers_blocks() -> None:
    rng = np.random.default_rng(5)
    block = np.repeat(np.arange(60), 20)
    drift = np.repeat(rng.normal(0, 0.2, 60), 20)
    model = rng.random(1200) < 0.6 + drift
    rule = rng.random(1200) < 0.55
    one, two = (block_difference(model, rule, block, seed=3) for _ in range(2))
    assert one == two != block_difference(model, rule, block, seed=4)
    rows = block_difference(model, rule, np.arange(1200), seed=3)
    assert one.value == rows.value == pytest.approx(model.mean() - rule.mean())
    assert one.high - one.low > rows.high - rows.low  # clusters widen it
    assert one.low < one.value < one.high
    assert block_difference(model, model, block) == Difference(0.0, 0.0, 0.0)
    assert block_difference(model, rule, np.zeros(1200)).low is None


def test_the_block_interval_has_about_its_coverage() -> None:
    """A rule is compared to a twin of equal skill, with clustered outcomes: zero must be inside in about 95 of 100 worlds."""
    rng = np.random.default_rng(8)
    block = np.repeat(np.arange(80), 10)
    inside = 0
    for _ in range(200):
        gain = np.repeat(rng.normal(0, 0.15, 80), 10)
        model, rule = rng.random(800) < 0.55 + gain, rng.random(800) < 0.55 - gain
        d = block_difference(model, rule, block, resamples=400, seed=1)
        inside += d.low <= 0 <= d.high
    assert 176 <= inside <= 199, inside


def settled(correct: int, n: int) -> Evaluation:
    label = np.r_[np.ones(correct), np.zeros(n - correct)]
    return evaluate(pd.DataFrame({"session": pd.Timestamp("2013-01-02"), "probability": 0.6, "predicted": 1, "naive": 1, "majority": 1,
                                  "label": label}))


@pytest.mark.parametrize(("correct", "n", "status"), [
    (0, 0, Status.UNKNOWN), (0, 4, Status.UNKNOWN), (99, 99, Status.UNKNOWN), (100, 100, Status.OK), (54, 100, Status.OK),
    (45, 100, Status.WARNING), (39, 100, Status.CRITICAL), (549, 1000, Status.OK),
    (518, 1000, Status.WARNING), (468, 1000, Status.CRITICAL),
    (610, 1000, Status.OK)])
def test_the_verdict_is_by_the_bound(correct: int, n: int, status: Status) -> None:
    e = settled(correct, n)
    found, sentence = accuracy_verdict(e, alert=0.55, critical=0.50, judged_from=100)
    assert found == status and (str(n) in sentence or n == 0)
    if n >= 100:
        assert (e.high < 0.50) == (status == Status.CRITICAL) and (e.high < 0.55) == (status in (Status.WARNING, Status.CRITICAL))
