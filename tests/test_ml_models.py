"""Training, registry and stored predictions: deterministic, tamper-evident, and counted as anyone would recount them."""
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.config import load_config
from gpt_trader.core.outcome import DataError, StorageError, UsageError
from gpt_trader.core.workspace import Workspace
from gpt_trader.dataflow.datasets import adjusted
from gpt_trader.dataflow.providers import EmbeddedProvider
from gpt_trader.ml import registry
from gpt_trader.ml.comparison import compare
from gpt_trader.ml.evaluation import Difference
from gpt_trader.ml.features import FEATURES, compute_features, features_hash
from gpt_trader.ml.labelcheck import compare_labels
from gpt_trader.ml.labels import make_labels
from gpt_trader.ml.prediction import Predictor, accuracy, check_model, forecast, settle_predictions, settled_predictions, store_predictions
from gpt_trader.ml.registry import (
    PREDICTIONS_FILE,
    PromotionRefused,
    champion,
    get_model,
    identity,
    latest,
    models,
    promote,
    register,
    train_and_register,
    verify_models,
)
from gpt_trader.ml.training import (
    data_hash,
    fit,
    labels_for,
    majority_of,
    prediction_rows,
    settings_for,
    train_final,
    training_table,
    walk_forward,
)

PROVIDER = EmbeddedProvider()
BARS = adjusted(pd.concat([PROVIDER.bars(symbol) for symbol in ("AAPL", "GOOG", "IBM", "MSFT")], ignore_index=True))
SESSIONS = BARS["session"].drop_duplicates().sort_values().reset_index(drop=True)
END = SESSIONS.iloc[-41]
QUICK = "lightgbm: {num_boost_round: 25, learning_rate: 0.15}\n"
FEATURES_TABLE = compute_features(BARS)
SETTINGS = replace(settings_for(load_config(None)), num_boost_round=10)
LABELS = labels_for(BARS, SETTINGS)


def quick_workspace(root: Path) -> Workspace:
    ws = Workspace.create(root, SimulatedClock(datetime(2013, 1, 2, 22, tzinfo=UTC)))
    (ws.config_dir / "models.yaml").write_text(QUICK)
    return ws


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace with a champion, made once; tests that change it put it back."""
    with quick_workspace(tmp_path_factory.mktemp("trained")) as ws:
        assert train_and_register(ws, BARS, end=END).model.status == "champion"
        yield ws


# ---------------------------------------------------------------- training
def test_the_same_seed_gives_the_same_model_on_any_number_of_threads() -> None:
    one, two = (train_final(FEATURES_TABLE, LABELS, replace(SETTINGS, params=SETTINGS.params | {"num_threads": k}), end=END)
                for k in (1, 2))
    trees = [t.model_text.split("\nparameters:")[0] for t in (one, two)]
    assert trees[0] == trees[1] and train_final(FEATURES_TABLE, LABELS, SETTINGS, end=END) == one
    other = train_final(FEATURES_TABLE, LABELS, replace(SETTINGS, params=SETTINGS.params | {"seed": 8}), end=END)
    assert other.model_text.split("\nparameters:")[0] != trees[0]


def test_nothing_after_the_end_is_read() -> None:
    """Bars after the end are replaced by nonsense: predictions, model and hash stay the same."""
    end = pd.Timestamp("2005-03-01")
    nonsense = BARS.copy()
    after = nonsense["session"] > end
    nonsense.loc[after, ["open", "high", "low", "close"]] *= np.where(np.arange(after.sum()) % 3, 5.0, 0.2)[:, None]
    features, labels = compute_features(nonsense), labels_for(nonsense, SETTINGS)
    a, b = walk_forward(FEATURES_TABLE, LABELS, SETTINGS, end=end), walk_forward(features, labels, SETTINGS, end=end)
    pd.testing.assert_frame_equal(a.predictions, b.predictions, check_exact=True)
    assert a.evaluation == b.evaluation and a.predictions["session"].max() <= end
    assert train_final(FEATURES_TABLE, LABELS, SETTINGS, end=end) == train_final(features, labels, SETTINGS, end=end)
    assert data_hash(FEATURES_TABLE, LABELS, SETTINGS, end=end) == data_hash(features, labels, SETTINGS, end=end)
    assert data_hash(FEATURES_TABLE, LABELS, SETTINGS) != data_hash(features, labels, SETTINGS)


def test_the_majority_is_learnt_on_the_past_alone() -> None:
    end = pd.Timestamp("2006-03-01")
    walk = walk_forward(FEATURES_TABLE, LABELS, SETTINGS, end=end)
    for fold in walk.folds:
        rows = walk.predictions[walk.predictions["fold"] == fold["fold"]]
        known = LABELS[LABELS["label"].notna() & LABELS["naive"].notna() & (LABELS["label_end"] <= fold["known_by"])]
        assert len(known) == fold["train_rows"] and set(rows["majority"]) == {majority_of(known["label"])}


def test_shuffled_labels_leave_nothing_to_learn() -> None:
    """The whole way on labels that mean nothing: an honest machine finds no skill."""
    rng = np.random.default_rng(3)
    random = LABELS.assign(label=LABELS["label"].where(LABELS["label"].isna(), rng.integers(0, 2, len(LABELS)).astype(float)))
    e = walk_forward(FEATURES_TABLE, random, SETTINGS, end="2008-12-31").evaluation
    assert 0.47 < e.auc < 0.53 and not e.beats_both


def test_what_cannot_be_trained_on_is_refused() -> None:
    with pytest.raises(DataError, match="lacks the features"):
        training_table(FEATURES_TABLE, LABELS, ["nothing"])
    with pytest.raises(DataError, match="no row"):
        training_table(FEATURES_TABLE, LABELS, ["ret_1"], end="1999-01-01")
    with pytest.raises(DataError, match="9 rows"):
        fit(FEATURES_TABLE.head(9)[["ret_1"]], pd.Series([1.0] * 9), SETTINGS)
    with pytest.raises(UsageError, match="range_expansion"):
        settings_for(load_config(None), "range_expansio")


# ---------------------------------------------------------------- registry
def test_registering_the_same_again_trains_nothing(trained: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt_trader.ml.training.fit", lambda *a: pytest.fail("it trained again"))
    before = trained.journal.head()
    again = train_and_register(trained, BARS, end=END)
    assert again.reused and again.model == champion(trained, "range_expansion") and trained.journal.head() == before


def test_the_card_can_be_checked(trained: Workspace) -> None:
    import io

    model = latest(trained, "range_expansion")
    assert model is not None and json.loads(model.path(trained, "card.json").read_text()) == model.card
    stored = pd.read_parquet(io.BytesIO(model.read(trained, PREDICTIONS_FILE)))
    assert len(stored) == model.evaluation.n and (stored["predicted"] == stored["label"]).sum() == model.evaluation.correct
    assert stored["session"].max() <= END
    assert model.card["features_hash"] == features_hash(model.features) and model.card["known_by"] == f"{END:%Y-%m-%d}"
    assert trained.journal.verify().ok and trained.journal.check_projections() == []


@pytest.mark.parametrize("damage", ["changed", "cut", "missing"])
def test_a_file_that_is_not_what_was_registered_is_not_used(trained: Workspace, damage: str) -> None:
    model = champion(trained, "range_expansion")
    assert model is not None
    path = model.path(trained)
    sound = path.read_bytes()
    try:
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(sound[:-10] if damage == "cut" else sound.replace(b"tree", b"tRee", 1))
        with pytest.raises(StorageError, match=r"model range_expansion/"):
            Predictor.load(trained)
        assert len(verify_models(trained)) == 1
    finally:
        path.write_bytes(sound)
    assert verify_models(trained) == [] and Predictor.load(trained).model == model


def test_only_what_beats_both_rules_is_promoted(tmp_path: Path) -> None:
    with quick_workspace(tmp_path) as ws:
        walk = walk_forward(FEATURES_TABLE, LABELS, SETTINGS, end="2006-06-30")
        final = train_final(FEATURES_TABLE, LABELS, SETTINGS, end="2006-06-30")
        cases = {"ahead": (0.01, 0.01, True), "behind naive": (0.01, -0.001, False), "behind majority": (-0.001, 0.01, False),
                 "exactly": (0.0, 0.01, False), "unknown": (None, 0.01, False)}
        for number, (name, (majority, naive, earned)) in enumerate(cases.items()):
            e = replace(walk.evaluation, versus_majority=Difference(0.02, majority, 0.03), versus_naive=Difference(0.02, naive, 0.03))
            parts = identity(replace(SETTINGS, seed=number), "d", "f")
            model = register(ws, final, replace(walk, evaluation=e), SETTINGS, parts)
            if earned:
                assert promote(ws, model.head, model.version).status == "champion"
                assert promote(ws, model.head, model.version).status == "champion"
            else:
                with pytest.raises(PromotionRefused, match="beat|stays challenger"):
                    promote(ws, model.head, model.version)
                assert get_model(ws, model.head, model.version).status == "challenger", name
        kinds = [entry.kind for entry in ws.journal.entries(prefix="model.")]
        assert kinds.count("model.registered") == 5 and kinds.count("model.promoted") == 1 and len(models(ws)) == 5
        ws.journal.rebuild()
        assert [m.status for m in models(ws)].count("champion") == 1


def test_a_crash_before_the_entry_leaves_nothing_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with quick_workspace(tmp_path) as ws:
        walk = walk_forward(FEATURES_TABLE, LABELS, SETTINGS, end="2006-06-30")
        final = train_final(FEATURES_TABLE, LABELS, SETTINGS, end="2006-06-30")
        parts = identity(SETTINGS, "d", "f")
        with monkeypatch.context() as patch:
            patch.setattr(type(ws.journal), "append", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt()))
            with pytest.raises(KeyboardInterrupt):
                register(ws, final, walk, SETTINGS, parts)
        assert models(ws) == [] and verify_models(ws) == []
        model = register(ws, final, walk, SETTINGS, parts)
        assert verify_models(ws) == [] and register(ws, final, walk, SETTINGS, parts) == model


def test_a_models_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    with quick_workspace(tmp_path) as ws:
        (ws.models_dir / "range_expansion").write_text("a file in the way, which stops even root")
        with pytest.raises(StorageError, match="could not be written"):
            train_and_register(ws, BARS, end="2006-06-30")
        assert models(ws) == []


def test_nothing_is_unpickled() -> None:
    import inspect

    from gpt_trader.ml import prediction

    for module in (registry, prediction):
        assert "pickle" not in inspect.getsource(module).replace("unpickled", "")


# ---------------------------------------------------------------- predictions
def history(session: pd.Timestamp) -> pd.DataFrame:
    return BARS[BARS["session"] <= session]


def replay(ws: Workspace, sessions: pd.Series) -> Predictor:
    """Evening by evening: settle what the day answered, predict the next."""
    predictor = Predictor.load(ws)
    for today, tomorrow in zip(sessions, [*sessions.iloc[1:], None], strict=True):
        ws.clock.set(datetime.combine(today.date(), datetime.min.time(), UTC) + timedelta(hours=22))
        settle_predictions(ws, labels_for(history(today).tail(4 * 30), predictor.settings))
        if tomorrow is not None:
            store_predictions(ws, forecast(predictor, history(today), tomorrow))
    return predictor


def test_accuracy_is_what_anyone_recounts(trained: Workspace) -> None:
    predictor = replay(trained, SESSIONS.iloc[-41:])
    rows = trained.telemetry.frame("SELECT * FROM predictions").set_index(["session", "symbol"])
    assert len(rows) == 160 and rows["label"].notna().all()
    truth = {}  # straight from the bars, by hand
    for symbol, own in BARS.groupby("symbol"):
        ranges = ((own["high"] - own["low"]) / own["close"]).to_numpy()
        days = own["session"].dt.strftime("%Y-%m-%d").to_numpy()
        truth |= {(days[t + 1], symbol): int(ranges[t + 1] > np.median(ranges[t - 20: t + 1]))
                  for t in range(len(days) - 41, len(days) - 1)}
    assert rows["label"].to_dict() == truth
    check = check_model(trained, last_hours=24)
    figures = check.figures["judged"]
    assert figures["n"] == 160 and figures["correct"] == (rows["predicted"] == rows["label"]).sum()
    assert figures["accuracy"] == figures["correct"] / 160 and figures["naive"] == (rows["naive"] == rows["label"]).mean()
    assert figures["majority"] == (rows["majority"] == rows["label"]).mean()
    newest = rows.loc[f"{SESSIONS.iloc[-1]:%Y-%m-%d}"]
    assert check.figures["recent"]["n"] == 4 and check.figures["recent"]["correct"] == (newest["predicted"] == newest["label"]).sum()
    assert accuracy(trained, last_n=10).n == 10
    assert list(settled_predictions(trained, last_n=4)["session"]) == [f"{SESSIONS.iloc[-1]:%Y-%m-%d}"] * 4
    assert json.dumps(check.figures)
    # and each prediction was made before the session that it is about
    assert (pd.to_datetime(rows["made_at"]).dt.strftime("%Y-%m-%d") < rows.index.get_level_values("session")).all()
    # the evenings gave what the whole table gives
    batch = predictor.predict(FEATURES_TABLE)
    made_on = dict(zip(SESSIONS.iloc[1:].dt.strftime("%Y-%m-%d"), SESSIONS.iloc[:-1], strict=True))
    again = np.array([batch[(made_on[session], symbol)] for session, symbol in rows.index])
    assert np.abs(again - rows["probability"].to_numpy()).max() < 1e-9


def test_what_is_written_down_stands_and_what_is_unknown_is_not_counted(tmp_path: Path) -> None:
    with quick_workspace(tmp_path) as ws:
        assert check_model(ws).status == "unknown" and check_model(ws).figures["recent"]["n"] == 0
        train_and_register(ws, BARS, end=END)
        predictor = Predictor.load(ws)
        first = forecast(predictor, history(END), SESSIONS.iloc[-40])
        assert store_predictions(ws, first) == 4 == len(first)
        ws.clock.advance(timedelta(hours=1))
        assert store_predictions(ws, first.assign(probability=0.999, predicted=1)) == 0
        kept = ws.telemetry.frame("SELECT probability, made_at FROM predictions")
        assert kept["probability"].max() < 0.999 and kept["made_at"].nunique() == 1
        assert accuracy(ws).n == 0 and "wait" in check_model(ws).summary
        labels = labels_for(history(SESSIONS.iloc[-40]), predictor.settings)
        assert settle_predictions(ws, labels) == 4 and settle_predictions(ws, labels.assign(label=1 - labels["label"])) == 0
        assert accuracy(ws).n == 4 and check_model(ws).status == "unknown" and "too few" in check_model(ws).summary
        ws.clock.advance(timedelta(hours=25))
        assert check_model(ws, last_hours=24).figures["recent"]["n"] == 0 and check_model(ws, last_hours=26).figures["recent"]["n"] == 4
        with pytest.raises(UsageError, match="last_hours"):
            check_model(ws, last_hours=0)
        with pytest.raises(DataError, match="cannot forecast"):
            forecast(predictor, history(SESSIONS.iloc[-40]), SESSIONS.iloc[-40])
        with pytest.raises(UsageError, match="no champion"):
            Predictor.load(ws, "direction")


@pytest.mark.parametrize("kind", ["horizon_return", "triple_barrier"])
def test_an_answer_that_takes_days_settles_the_evening_that_asked(tmp_path: Path, kind: str) -> None:
    """A prediction stands under the session after its evening; what other evenings asked may be known in that session, too."""
    options = {"profit_take": 2.0, "stop_loss": 1.0} if kind == "triple_barrier" else {}
    labels = make_labels(history(END).tail(4 * 120), kind, horizon=5, **options)
    known = labels[labels["label"].notna() & labels["naive"].notna()]
    evenings = known.index.get_level_values("session").unique()[30:60]
    rows = known.loc[evenings].reset_index()
    made = pd.DataFrame({"session": rows["next_session"].dt.strftime("%Y-%m-%d"), "symbol": rows["symbol"], "head": "range_expansion",
                         "model_version": "v", "probability": 0.5, "predicted": rows["label"].astype(int), "naive": rows["naive"],
                         "majority": 1, "features_hash": ""})
    with quick_workspace(tmp_path) as ws:
        assert store_predictions(ws, made) == len(rows)
        early = labels[labels["label_end"] <= evenings[10]]
        asked = int((rows["label_end"] <= evenings[10]).sum())
        assert settle_predictions(ws, early) == asked and settle_predictions(ws, labels) == len(rows) - asked
        assert accuracy(ws).accuracy == 1.0 and compare_labels(settled_predictions(ws), labels).wrong == 0


def test_labels_that_end_together_are_compared_by_the_evening_that_asked() -> None:
    made = make_labels(history(END).tail(4 * 200), "triple_barrier", horizon=10, profit_take=2.0, stop_loss=1.0)
    rows = prediction_rows(known := made[made["label"].notna() & made["naive"].notna()], np.full(len(known), 0.6), 1)
    assert rows.duplicated(["session", "symbol"]).any()
    found = compare(rows, rows.assign(probability=rows["label"], predicted=rows["label"].astype(int)))
    assert found.n == len(rows) and found.accuracy.value == pytest.approx(1 - rows["label"].mean())


def test_a_model_whose_features_are_defined_otherwise_is_refused(trained: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FEATURES, "ret_5", replace(FEATURES["ret_5"], formula="ln(close / close[-6])"))
    with pytest.raises(DataError, match="train it again"):
        Predictor.load(trained)


@pytest.mark.slow
def test_the_headline_model_beats_both_rules_on_the_embedded_market() -> None:
    """The parameters of models.yaml, on the real history: what the README and the demo say."""
    settings = settings_for(load_config(None))
    e = walk_forward(FEATURES_TABLE, labels_for(BARS, settings), settings, end=END).evaluation
    assert e.beats_both and e.n > 8000 and 0.60 < e.accuracy < 0.64 and 0.57 < e.naive < 0.60


def test_the_chart_shows_what_the_verdict_was_counted_on() -> None:
    from gpt_trader.ml.charts import accuracy_chart, accuracy_history, accuracy_table
    from gpt_trader.ml.evaluation import NOTHING, evaluate

    known = LABELS.loc["2012":].dropna().reset_index()
    rows = pd.DataFrame({"session": known["label_end"].dt.strftime("%Y-%m-%d"), "probability": 0.5, "predicted": known["naive"],
                         "naive": 1 - known["naive"], "majority": 1.0, "label": known["label"]})
    table = accuracy_history(rows, judged_on=100)
    for session in table.index[[0, 3, 60, -1]]:
        then = evaluate(rows[pd.to_datetime(rows["session"]) <= session].tail(100))
        assert table.loc[session].to_dict() == pytest.approx({k: getattr(then, k) for k in table.columns})
    bands = {"normal_low": 0.58, "normal_high": 0.62, "alert_below": 0.55, "critical_below": 0.5}
    figure = accuracy_chart(table, bands)
    assert list(figure.data[3].y) == table["accuracy"].tolist() and {s.y0 for s in figure.layout.shapes} == {0.58, 0.55, 0.5}
    assert accuracy_table({"none": NOTHING, "all": evaluate(rows)})["outcomes"].tolist() == [0, len(rows)]
    with pytest.raises(DataError, match="not known"):
        accuracy_history(rows.assign(label=np.nan), judged_on=100)


# ---------------------------------------------------------------- what model_training adds
def test_boosters_of_other_seeds_become_one_model_that_answers_with_their_mean(tmp_path: Path) -> None:
    import lightgbm as lgb

    table, known = training_table(FEATURES_TABLE, LABELS, SETTINGS.features, "2006-03-01")
    asked = replace(SETTINGS, n_parallel_trees=3)
    apart = [fit(table, known["label"], replace(SETTINGS, params=SETTINGS.params | {"seed": SETTINGS.params["seed"] + 1000 * k}))
             for k in range(3)]
    final = train_final(FEATURES_TABLE, LABELS, asked, end="2006-03-01")
    together = lgb.Booster(model_str=final.model_text)
    mean = np.mean([b.predict(table, raw_score=True) for b in apart], axis=0)
    assert np.abs(together.predict(table, raw_score=True) - mean).max() < 1e-12 and together.num_trees() == 30
    assert final == train_final(FEATURES_TABLE, LABELS, asked, end="2006-03-01")
    with quick_workspace(tmp_path) as ws:  # and it is registered, verified and served as any other
        (ws.config_dir / "models.yaml").write_text("lightgbm: {num_boost_round: 10}\nmodel_training: {n_parallel_trees: 2}\n")
        model = train_and_register(ws, BARS[BARS["session"] < "2006-01-01"], trust=False).model
        assert verify_models(ws) == [] and Predictor.load(ws, version=model.version).booster.num_trees() == 20


def test_the_newest_sessions_stop_the_boosting_and_no_label_reaches_into_them() -> None:
    from gpt_trader.ml.training import validation_split

    settings = replace(SETTINGS, num_boost_round=80, early_stopping_rounds=3, horizon=10, kind="direction")
    labels = labels_for(BARS, settings)
    table, known = training_table(FEATURES_TABLE, labels, settings.features, "2005-03-01")
    ends = known["label_end"]
    train, later = validation_split(ends, settings.validation_share)
    assert ends.iloc[train].max() < known.index[later[0]][0] and not set(train) & set(later)
    stopped = fit(table, known["label"], settings, label_end=ends)
    assert stopped.num_trees() < 80
    again = fit(table, known["label"], replace(settings, early_stopping_rounds=0, num_boost_round=stopped.num_trees()))
    assert np.array_equal(stopped.predict(table), again.predict(table)), "it is then made on all rows"
    with pytest.raises(UsageError, match="label_end"):
        fit(table, known["label"], settings)


def test_weights_and_windows_change_what_counts_and_nothing_else() -> None:
    from gpt_trader.ml.training import row_weights

    settings = replace(SETTINGS, kind="direction", horizon=10, weights="uniqueness")
    table, known = training_table(FEATURES_TABLE, labels_for(BARS, settings), settings.features, "2006-03-01")
    ends = known["label_end"]
    weight = row_weights(known["label"], ends, replace(settings, half_life_years=1.0))
    days = known.index.get_level_values("session")
    old, new = (weight[(days >= f"{year}-03-01") & (days <= f"{year}-03-31")].mean() for year in (2003, 2005))
    assert weight.mean() == pytest.approx(1) and new / old == pytest.approx(4, rel=0.02)
    short = fit(table, known["label"], replace(settings, weights="equal", max_train_years=1.0))
    recent = days > days.max() - pd.Timedelta(days=365)
    by_hand = fit(table[recent], known["label"][recent], replace(settings, weights="equal"))
    assert np.array_equal(short.predict(table), by_hand.predict(table))


def test_without_a_device_the_cpu_does_it_and_the_log_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpt_trader.ml.boosters.device_fault", lambda: "No OpenCL device found")
    asked = replace(SETTINGS, use_gpu=True)
    with pytest.warns(RuntimeWarning, match="No OpenCL device found"):
        other = train_final(FEATURES_TABLE, LABELS, asked, end="2004-03-01")
    assert other.model_text == train_final(FEATURES_TABLE, LABELS, SETTINGS, end="2004-03-01").model_text
    with quick_workspace(tmp_path) as ws:
        (ws.config_dir / "models.yaml").write_text("lightgbm: {num_boost_round: 5}\nmodel_training: {use_gpu: true}\n")
        with pytest.warns(RuntimeWarning):
            train_and_register(ws, BARS[BARS["session"] < "2005-06-01"], trust=False)
        logged = "".join(path.read_text() for path in ws.logs_dir.glob("*ml*"))
        assert "training.no_device" in logged and "No OpenCL device found" in logged
