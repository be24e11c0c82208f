"""What watches a model: each report against figures worked out another way, and silence where nothing happened."""
import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from gpt_trader.core.config import load_config
from gpt_trader.core.outcome import Status
from gpt_trader.ml.drift import detect_drift, discoveries
from gpt_trader.ml.estimation import calibrator, estimate_accuracy, expected_accuracy
from gpt_trader.ml.labelcheck import compare_labels
from gpt_trader.ml.predictiondrift import prediction_drift
from gpt_trader.ml.regime import market_state, regime_change

SETTINGS = load_config(None).models.drift
DAYS = pd.bdate_range("2004-01-01", periods=2200)


def waves(seed: int, columns: int = 6) -> pd.DataFrame:
    """Autocorrelated columns, shared by three symbols in part."""
    g = np.random.default_rng(seed)
    common = pd.DataFrame(g.normal(size=(len(DAYS), columns))).ewm(halflife=12).mean().to_numpy() * 4
    index = pd.MultiIndex.from_product([DAYS, list("ABC")], names=["session", "symbol"])
    own = g.normal(size=(3 * len(DAYS), columns))
    return pd.DataFrame(np.repeat(common, 3, axis=0) + own, index=index, columns=[f"f{k}" for k in range(columns)])


def test_benjamini_and_hochberg_by_their_own_words() -> None:
    """The largest k with p_(k) <= k / m * level: all up to it are called."""
    g = np.random.default_rng(1)
    for _ in range(30):
        p = np.round(g.random(40) ** 3, 3)
        ordered = np.sort(p)
        passing = [k for k in range(1, 41) if ordered[k - 1] <= k / 40 * 0.05]
        q, passed, fewest = discoveries(p, 0.05, 99)
        assert passed == max(passing, default=0) == int((q <= 0.05).sum()) and fewest == 8


def test_what_a_drift_weighs_is_what_the_model_makes_of_it() -> None:
    """Two features move; the model looks at one of them only: gain and turned answers are that one's."""
    table, cut = waves(3), DAYS[2100]
    late = table.index.get_level_values("session") > cut
    table.loc[late, ["f1", "f4"]] += 3 * table["f0"].std()
    gain = pd.Series({"f0": 0.6, "f1": 0.4, "f2": 0.0, "f3": 0.0, "f4": 0.0, "f5": 0.0})
    report = detect_drift(table, cut, SETTINGS, importance=gain,
                          predict=lambda x: 1 / (1 + np.exp(-0.6 * x["f0"] - 0.4 * x["f1"])).to_numpy())
    seen = report.table.loc[report.table["drifted"]]
    assert report.status == Status.WARNING and set(seen.index) == {"f1", "f4"} and report.gain == pytest.approx(0.4)
    assert seen.loc["f1", "turned"] > 0.15 and seen.loc["f4", "turned"] == 0 and report.turned == seen.loc["f1", "turned"]
    assert "40% of the model's gain" in report.summary and report.to_outcome().figures["turned"] == report.turned


def test_the_prediction_drift_is_scipys_distance_and_knows_its_own_past() -> None:
    g = np.random.default_rng(6)
    rows = waves(9, 1).rename(columns={"f0": "x"}).reset_index()
    rows["probability"] = 1 / (1 + np.exp(-0.4 * rows.pop("x")))
    past, live = rows[rows.session <= DAYS[2130]], rows[rows.session > DAYS[2130]]
    calm = prediction_drift(past, live, SETTINGS)
    newest = live[live.session > DAYS[-64]]
    assert calm.drifted is False and calm.ks == pytest.approx(ks_2samp(past.probability, newest.probability).statistic)
    assert calm.rows == len(newest) == 189 and calm.mean == pytest.approx((past.probability.mean(), newest.probability.mean()))
    lots = live.assign(probability=0.5 + 0.02 * g.standard_normal(len(live)))
    assert prediction_drift(past, lots, SETTINGS).drifted is True


def test_a_regime_is_the_markets_and_not_one_symbols() -> None:
    g = np.random.default_rng(2)
    returns = 0.006 * g.normal(size=(len(DAYS), 1)) + 0.01 * g.normal(size=(len(DAYS), 8))

    def bars(moves: np.ndarray) -> pd.DataFrame:
        closes = pd.DataFrame(100 * np.exp(moves.cumsum(axis=0)), index=pd.Index(DAYS, name="session"), columns=list("abcdefgh"))
        return closes.stack().rename("close").rename_axis(["session", "symbol"]).reset_index()

    one, all_, joined = returns.copy(), returns.copy(), returns.copy()
    one[-30:, 0] *= 4
    all_[-30:] *= 4
    joined[-30:] = returns[-30:, :1] + 0.0005 * g.normal(size=(30, 8))
    assert [regime_change(bars(x), SETTINGS).changed for x in (returns, one, all_, joined)] == [False, False, True, True]
    state = market_state(bars(returns))
    assert state["correlation"].dropna().abs().max() < 0.35
    assert market_state(bars(returns)[lambda f: f.symbol == "a"])["correlation"].isna().all()
    last = pd.Series(returns.mean(axis=1))
    assert state["volatility"].iloc[-1] == pytest.approx(np.log(last.iloc[-21:].std() / last.iloc[-273:-21].std()), rel=1e-6)


def test_an_estimate_holds_its_interval_and_a_drop_that_confidence_explains_is_foreseen() -> None:
    g = np.random.default_rng(4)
    sessions = np.repeat(np.array(DAYS), 4)
    hard = np.repeat((np.arange(len(DAYS)) // 126 % 2).astype(bool), 4)  # half-years in which the model is, and knows that it is, less sure
    far = np.where(hard, 0.03, 0.2) * g.random(len(sessions)) * g.choice([-1, 1], len(sessions))
    p = 0.5 + far
    rows = pd.DataFrame({"session": sessions, "probability": p, "predicted": (p >= 0.5).astype(int),
                         "label": (g.random(len(p)) < p).astype(float)})
    cut = DAYS[2016]
    window = rows[(rows.session >= cut) & (rows.session < DAYS[2016 + 63])]
    seen = estimate_accuracy(rows[rows.session < cut], window)
    assert seen.explained is True and seen.low < seen.value < seen.high
    assert seen.error < seen.lazy_error, "it knows hard from easy half-years"
    blind = estimate_accuracy(rows[rows.session < cut], window.assign(label=np.nan))
    assert (blind.value, blind.low, blind.measured) == (seen.value, seen.low, None)
    f = calibrator(rows.probability.to_numpy(), rows.label.to_numpy())
    assert (np.diff(f(np.linspace(0.3, 0.7, 50))) >= 0).all() and 0.5 < expected_accuracy(rows.probability.to_numpy(), f) < 0.6


def test_settled_outcomes_are_those_of_the_bars_or_it_is_said() -> None:
    index = pd.MultiIndex.from_product([DAYS[:400], ["A"]], names=["session", "symbol"])
    labels = pd.DataFrame({"label": np.tile([1.0, 0.0], 200), "label_end": DAYS[5:405], "next_session": DAYS[1:401]}, index=index)
    days = [f"{d:%Y-%m-%d}" for d in DAYS[1:401]]
    rows = pd.DataFrame({"session": days, "symbol": "A", "predicted": 1, "label": np.tile([1.0, 0.0], 200)})
    assert compare_labels(rows, labels).agree is True
    wrong = rows.assign(label=rows.label.where(rows.index >= 12, 1 - rows.label))
    seen = compare_labels(wrong, labels)
    assert seen.agree is False and seen.wrong == 12 and seen.recomputed == 0.5 and len(seen.to_json()["examples"]) == 12
