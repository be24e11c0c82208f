"""A challenger by procedure, two models side by side, parameters changed with a copy: each verified at its source."""
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.config import load_config
from gpt_trader.core.modelsettings import Bands
from gpt_trader.core.outcome import DataError, Status, UsageError
from gpt_trader.core.workspace import Workspace
from gpt_trader.dataflow.ingestion import ingest
from gpt_trader.dataflow.providers import EmbeddedProvider
from gpt_trader.ml.evaluation import NOTHING, Difference, evaluate, health
from gpt_trader.ml.parameters import apply_model_change, plan_model_change, proposal, read_back
from gpt_trader.ml.registry import champion, models, promote
from gpt_trader.ml.retraining import known_now, registered, retrain, sides
from gpt_trader.runbook.engine import run_procedure

QUICK = "# quick\nlightgbm: {num_boost_round: 20, learning_rate: 0.15}\n"
BANDS = Bands(normal_low=0.58, normal_high=0.62, alert_below=0.55, critical_below=0.50)


def desk(root: Path, moment: datetime, symbols=("AAPL", "IBM"), text: str = QUICK) -> Workspace:
    ws = Workspace.create(root, SimulatedClock(moment))
    (ws.config_dir / "models.yaml").write_text(text)
    ingest(ws, EmbeddedProvider(), list(symbols))
    return ws


# ---------------------------------------------------------------- health
def rows(model: float, naive: float, n: int = 4000) -> pd.DataFrame:
    """Predictions of which a share is right, and a naive rule of which another share is, independently, over many sessions."""
    rng = np.random.default_rng(1)
    label = rng.integers(0, 2, n)
    said = {name: np.where(rng.permutation(n) < share * n, label, 1 - label) for name, share in (("predicted", model), ("naive", naive))}
    days = pd.bdate_range("2001-01-01", periods=n // 4).repeat(4)
    return pd.DataFrame({"session": days, "probability": np.where(said["predicted"] == 1, 0.6, 0.4), **said, "majority": 1, "label": label})


@pytest.mark.parametrize(("model", "naive", "status", "healthy", "band", "beaten_by"), [
    (0.60, 0.55, Status.OK, True, "normal", ()), (0.60, 0.60, Status.WARNING, False, "normal", ("naive rule",)),
    (0.60, 0.66, Status.WARNING, False, "normal", ("naive rule",)), (0.66, 0.55, Status.OK, True, "above normal", ()),
    (0.53, 0.50, Status.WARNING, False, "alert", ()), (0.45, 0.40, Status.CRITICAL, False, "critical", ("majority rule",))])
def test_a_model_inside_its_band_that_a_rule_beats_is_not_healthy(model, naive, status, healthy, band, beaten_by) -> None:
    verdict = health(evaluate(rows(model, naive)), BANDS)
    assert (verdict.status, verdict.healthy, verdict.band) == (status, healthy, band) and verdict.beaten_by == beaten_by
    if status == Status.WARNING and band == "normal":
        assert "still not healthy" in verdict.sentence and "naive rule" in verdict.sentence


def test_what_cannot_be_told_is_not_healthy_either() -> None:
    assert health(NOTHING, BANDS).healthy is None
    few = health(evaluate(rows(0.60, 0.50, 400).iloc[:40]), BANDS)
    assert few.healthy is None and few.status == Status.UNKNOWN and "too few" in few.sentence


# ---------------------------------------------------------------- what is known
def test_only_sessions_that_have_ended_train_and_a_foreign_universe_is_said(tmp_path: Path) -> None:
    with desk(tmp_path, datetime(2009, 1, 5, 15, tzinfo=UTC), ("FB",)) as ws:  # during the session; FB is in no universe
        with pytest.raises(DataError):
            known_now(ws)  # FB was not listed yet
    with desk(tmp_path / "later", datetime(2012, 12, 3, 15, tzinfo=UTC), ("FB",)) as ws:
        known = known_now(ws)
        assert known.symbols == ("FB",) and "none of the desk's universe" in known.notes[0] and known.last == pd.Timestamp("2012-11-30")


# ---------------------------------------------------------------- parameters
def test_parameters_are_changed_in_place_and_read_back(tmp_path: Path) -> None:
    with Workspace.create(tmp_path, SimulatedClock(datetime(2013, 1, 2, 22, tzinfo=UTC))) as ws:
        ours = "# ours\nlightgbm:\n  num_leaves: 9  # since May\nmodel_training:\n  weights: uniqueness\n"
        (ws.config_dir / "models.yaml").write_text(ours)
        change = plan_model_change(ws, proposal(load_config(ws.config_dir), "stronger_regularisation"))
        kept = apply_model_change(ws, change, reason="drill")
        text = (ws.config_dir / "models.yaml").read_text()
        assert kept.read_text() == ours and "num_leaves: 4  # since May" in text and "weights: uniqueness" in text
        assert read_back(ws, change) == {key: new for key, (_, new) in change.changes.items()}
        entry = ws.journal.last("model.parameters_changed")
        assert entry.body["changes"]["lightgbm.num_leaves"] == {"old": "9", "new": "4"} and entry.body["reason"] == "drill"
        again = plan_model_change(ws, {"model_training.half_life_years": 2})
        (ws.config_dir / "models.yaml").write_text(text + "# touched\n")
        with pytest.raises(UsageError, match="changed since"):
            apply_model_change(ws, again, reason="drill")
        for wrong in ({"lightgbm.num_leaves": 4}, {"lightgbm.num_leaves": 1}, {"lightgbm.nonsense": 4}, {}):
            with pytest.raises(UsageError):
                plan_model_change(ws, wrong)
        assert (ws.config_dir / "models.yaml").read_text() == text + "# touched\n" and ws.journal.verify().ok


# ---------------------------------------------------------------- the procedures
@pytest.mark.slow
def test_retraining_makes_a_challenger_and_nothing_else(tmp_path: Path) -> None:
    with desk(tmp_path, datetime(2009, 1, 2, 23, tzinfo=UTC)) as ws:
        old = retrain(ws).model
        promote(ws, old.head, old.version)
        ws.clock.set(datetime(2010, 1, 4, 23, tzinfo=UTC))
        dry = run_procedure(ws, "trigger_retraining").outcome
        assert dry.status == "ok" and dry.figures["version"] is None and len(models(ws)) == 1 and dry.summary.startswith("Dry run")
        done = run_procedure(ws, "trigger-retraining", {"execute": True, "reason": "drift"}).outcome
        new = models(ws)[-1]
        e, figures = new.evaluation, done.figures
        assert {k: figures[k] for k in ("head", "version", "accuracy", "low", "high", "majority", "naive", "beats_both", "reused")} == {
            "head": "range_expansion", "version": new.version, "accuracy": e.accuracy, "low": e.low, "high": e.high, "majority": e.majority,
            "naive": e.naive, "beats_both": e.beats_both, "reused": False}
        stored = new.predictions(ws)
        assert e.accuracy == (stored["predicted"] == stored["label"]).mean() and e.n == len(stored)
        assert done.verification == "verified" and new.status == "challenger" and champion(ws, old.head).version == old.version
        assert new.card["known_by"] == "2010-01-04" and done.recommended == ("compare_models",)
        assert run_procedure(ws, "trigger_retraining", {"execute": True}).outcome.figures["reused"] is True and len(models(ws)) == 2

        compared = run_procedure(ws, "compare_models").outcome
        a, b = (m.predictions(ws).set_index(["session", "symbol"]) for m in (old, new))
        common = a.join(b, rsuffix="_b", how="inner")
        lift = (common["predicted_b"] == common["label"]).mean() - (common["predicted"] == common["label"]).mean()
        f = compared.figures
        assert (f["champion"], f["challenger"], f["n"]) == (old.version, new.version, len(common))
        assert f["accuracy"]["value"] == pytest.approx(lift) and {"low", "high"} <= set(f["brier"]) and f["verdict"]
        assert run_procedure(ws, "compare_models", {"on": "settled"}).outcome.status == "unknown"

        path = new.path(ws)  # a file that is not what was registered is refuted, not passed over
        path.write_bytes(path.read_bytes()[:-5])
        assert registered(ws, new).startswith("refuted: model.txt")


@pytest.mark.slow
def test_parameters_are_adjusted_by_procedure_only_where_that_helps(tmp_path: Path) -> None:
    wild = "# ours\nlightgbm: {num_boost_round: 60, learning_rate: 0.5, num_leaves: 63, min_data_in_leaf: 5}\n"
    with desk(tmp_path, datetime(2009, 1, 2, 23, tzinfo=UTC), text=wild) as ws:
        file = ws.config_dir / "models.yaml"
        dry = run_procedure(ws, "adjust_model_parameters", {"sessions": 252}).outcome
        assert file.read_text() == wild and dry.figures["proposal"] == "stronger_regularisation" and not dry.figures["applied"]
        done = run_procedure(ws, "adjust_model_parameters", {"sessions": 252, "execute": True, "reason": "the market has changed"}).outcome
        figures = done.figures
        assert done.status == "ok" and done.verification == "verified" and figures["applied"]
        assert done.recommended == ("trigger_retraining",)
        assert figures["after"]["brier"] < figures["before"]["brier"] and figures["before"]["n"] == figures["after"]["n"] == 504
        config = load_config(ws.config_dir).models
        assert figures["changes"] == {"lightgbm.num_leaves": config.lightgbm.num_leaves, "lightgbm.min_data_in_leaf": 10,
                                      "lightgbm.lambda_l2": config.lightgbm.lambda_l2}
        assert (ws.root / figures["kept_at"]).read_text() == wild and config.lightgbm.num_leaves == 31
        refused = run_procedure(ws, "adjust_model_parameters", {"execute": True}).outcome
        assert refused.status == "unknown" and "reason" in refused.summary
        tame = "lightgbm: {num_boost_round: 1, learning_rate: 0.001, num_leaves: 2}\n"  # says nothing, which nothing makes better
        file.write_text(tame)
        none = run_procedure(ws, "adjust_model_parameters", {"change": "shorter_window", "execute": True, "reason": "drill"}).outcome
        if not none.figures["applied"]:
            assert none.status == "warning" and file.read_text() == tame and json.dumps(none.figures)


def test_two_versions_are_needed(tmp_path: Path) -> None:
    with Workspace.create(tmp_path) as ws, pytest.raises(UsageError, match="needs two"):
        sides(ws)
    assert Difference(0.1, 0.05, 0.2).beats
