"""The chapter Model Performance Degradation, rehearsed: a fault in a real desk, the alert that it raises, and the branch that is taken."""
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import model_harness as desk
import pytest

from gpt_trader.core.metrics import Metric, record_metrics
from gpt_trader.core.outcome import Status
from gpt_trader.core.workspace import Workspace
from gpt_trader.ml.analysis import analyze_predictions
from gpt_trader.ml.registry import champion
from gpt_trader.monitoring.alerts import evaluate
from gpt_trader.monitoring.measure import model_accuracy, prediction_speed
from gpt_trader.runbook.engine import Run, run_procedure
from gpt_trader.runbook.incident import get_incident
from gpt_trader.runbook.procedure import runs
from gpt_trader.runbook.responder import respond

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300), pytest.mark.usefixtures("warm_engine")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return desk.trained_desk(tmp_path_factory.mktemp("base") / "desk")


@pytest.fixture
def ws(base: Path, tmp_path: Path) -> Iterator[Workspace]:
    with desk.copied(base, tmp_path / "desk") as opened:
        yield opened


def run(ws: Workspace, name: str, **params: Any) -> Run:
    done = run_procedure(ws, name, params)
    assert done.error is None, done.error
    assert done.report.exists()
    return done


def fired(ws: Workspace) -> bool:
    """Measure the accuracy as the desk does each evening, and judge it by the rules."""
    reading = model_accuracy(ws, desk.HEAD)
    record_metrics(ws, [Metric(reading.metric, reading.value, reading.labels, n=reading.n, low=reading.low, high=reading.high)])
    return "model_accuracy" in [t.rule for t in evaluate(ws) if t.kind == "alert.fired"]


FAULTS: dict[str, tuple[Callable[[Workspace], Any], str, str | None]] = {  # fault -> finding and the procedure that answers it
    "drift": (lambda ws: desk.changed_bars(ws, desk.overnight), "data drift", "trigger_retraining"),
    "bad data": (lambda ws: desk.changed_bars(ws, desk.broken_feed), "data quality issue", None),
    "label noise": (desk.noisy_champion, "the model stays below its band", "rollback_model"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_from_the_fault_to_the_alert_to_its_branch(ws: Workspace, fault: str) -> None:
    inject, finding, procedure = FAULTS[fault]
    good = champion(ws, desk.HEAD)
    inject(ws)
    desk.live(ws)
    (ws.config_dir / "config.yaml").write_text("approvals:\n  procedures: {rollback_model: none}\n")
    assert fired(ws), "the accuracy lies below its band, interval and all"
    [incident] = respond(ws, reports=False)
    assert incident.playbook == "model_performance_degradation" and incident.playbook_state == "done"
    said = next(r["outcome"] for r in runs(ws, [incident.playbook]))
    figures = said["figures"]
    assert (figures["finding"], figures["procedure"], figures["not_known"]) == (finding, procedure, []), said["summary"]
    assert said["status"] in ("warning", "critical")
    if procedure == "rollback_model":  # its policy lets the playbook act: the model before is put back, and awaits its outcomes
        assert figures["carried_out"] and said["verification"] == "verified" and "under way" in said["summary"], said["summary"]
        assert champion(ws, desk.HEAD) == good
    else:
        assert not figures["carried_out"]


def test_a_market_that_changed_is_answered_by_other_parameters(ws: Workspace) -> None:
    desk.changed_bars(ws, desk.crisis)
    desk.live(ws)
    said = run(ws, "model_performance_degradation").outcome
    assert said.figures["finding"] == "sudden market change" and "adjust the model's parameters" in said.summary, said.summary


@pytest.mark.soak
def test_a_bad_model_in_a_changed_market_is_put_down_to_the_market_first(ws: Workspace) -> None:
    desk.changed_bars(ws, desk.crisis)
    desk.noisy_champion(ws)
    desk.live(ws)
    assert run(ws, "model_performance_degradation").outcome.figures["finding"] == "sudden market change"


@pytest.mark.soak
def test_outcomes_that_were_written_down_wrongly_are_the_datas_fault_and_not_the_models(ws: Workspace) -> None:
    desk.live(ws)
    turned = desk.turned_outcomes(ws)
    said = run(ws, "model_performance_degradation").outcome
    assert turned > 100 and said.figures["finding"] == "data quality issue" and "settle the outcomes again" in said.summary, said.summary


def test_a_sound_desk_gets_no_resolution_and_its_diagnosis_is_recounted(ws: Workspace) -> None:
    """The runbook's flags as the playbook gives them, and each figure worked out from the stored rows."""
    rows = desk.live(ws)
    assert not fired(ws)
    said = run(ws, "model_performance_degradation").outcome
    assert said.figures["finding"] is None and said.figures["not_known"] == [] and said.status in (Status.OK, Status.WARNING), said.summary
    found = {r["name"]: r for r in runs(ws)}
    assert (found["detect_drift"]["parameters"]["model"], found["detect_drift"]["parameters"]["threshold"]) == ("current", 0.05)
    told = {name: r["outcome"]["figures"] for name, r in found.items()}
    seen, estimated, counted = told["detect_drift"], told["check_model_performance"]["estimated"], told["analyze_predictions"]
    assert seen["features_drifted"] is False and seen["market"]["changed"] is False and seen["predictions"]["rows"] == 252
    assert estimated["n"] == 252 and estimated["explained"] is True and estimated["low"] < estimated["measured"] < estimated["high"]
    assert counted["predictions"] == counted["settled"] == len(rows)
    assert counted["versions"] == {champion(ws, desk.HEAD).version: len(rows)} and counted["missing"] == counted["late"] == 0
    apart = rows[rows["predicted"] != rows["naive"]]
    assert counted["apart_from_naive"] == len(apart) and counted["right_where_apart"] == (apart["predicted"] == apart["label"]).mean()
    assert counted["labels"]["wrong"] == 0 and sum(s["n"] for s in counted["by_symbol"].values()) == len(rows)
    few = analyze_predictions(ws, count=40).figures
    assert few["predictions"] == 40 and few["sessions"] == 10


# ---------------------------------------------------------------- slow predictions
NO_CACHE = "prediction: {cache_models: false}\n"
ACTS = "approvals:\n  procedures: {tune_prediction: none}\n"


def slowed(ws: Workspace) -> None:
    """A heavy model that is loaded for every request, and a policy that lets a playbook set what it has chosen."""
    desk.heavy_champion(ws)
    models = ws.config_dir / "models.yaml"
    models.write_text(models.read_text() + NO_CACHE)
    (ws.config_dir / "config.yaml").write_text(ACTS)


def test_slow_predictions_from_the_latency_to_the_cache_that_mends_it(ws: Workspace) -> None:
    slowed(ws)
    with Workspace.open(ws.root) as slow:
        before = prediction_speed(slow, desk.HEAD, 0.2)[0]
        assert before.low is not None and before.low > 100, "nearly every request takes longer than 100 ms"
        record_metrics(slow, [Metric(before.metric, before.value, n=before.n, low=before.low, high=before.high)])
        assert "prediction_latency" in [t.rule for t in evaluate(slow) if t.kind == "alert.fired"]
        [incident] = [i for i in respond(slow, reports=False) if i.playbook == "slow_predictions"]
        done = runs(slow, ["slow_predictions"])[0]["outcome"]
        assert done["figures"]["proposal"] == "enable model caching" and done["figures"]["carried_out"], done["summary"]
        assert done["verification"] == "verified" and done["summary"].startswith("Resolved"), done["summary"]
        set_ = runs(slow, ["tune_prediction"])[0]["outcome"]["figures"]
        assert set_["applied"] and set_["request_after"] < set_["request_before"] / 2
        kept = (slow.root / set_["kept_at"]).read_text()
        assert NO_CACHE in kept and get_incident(slow, incident.incident_id).playbook_state == "done"
    with Workspace.open(ws.root) as quick:
        assert quick.config.models.prediction.cache_models is True
        after = prediction_speed(quick, desk.HEAD, 0.2)[0]
        assert after.value is not None and before.value is not None and after.value < before.value / 5


def test_tuning_measures_and_sets_nothing_by_itself(ws: Workspace) -> None:
    text = (ws.config_dir / "models.yaml").read_text()
    dry = run(ws, "tune_prediction", seconds=0.2).outcome
    options = {o["name"]: o for o in dry.figures["options"]}
    assert set(options) == {"caching", "reduced_features", "fewer_trees"} and dry.figures["dry_run"]
    assert options["caching"]["times"] > 1 and options["caching"]["changes"] == {}, "it is on already"
    kept = options["reduced_features"]["changes"][f"feature_sets.{desk.HEAD}_reduced"]
    assert len(kept) < 44 and options["reduced_features"]["accuracy"]["n"] > 5000
    assert options["fewer_trees"]["changes"] == {"lightgbm.num_boost_round": 12, "lightgbm.learning_rate": 0.3}
    assert (ws.config_dir / "models.yaml").read_text() == text
    quick = run(ws, "slow_predictions").outcome
    assert quick.figures["proposal"] is None and quick.figures["not_known"] == ["the pipeline is quick and requests wait all the same"]
