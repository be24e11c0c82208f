"""The runbook's snippets run as they stand but for the package's name, and what they set is what is used."""
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

import gpt_trader.ml
from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.outcome import UsageError
from gpt_trader.core.workspace import Workspace
from gpt_trader.dataflow.ingestion import ingest
from gpt_trader.dataflow.providers import EmbeddedProvider
from gpt_trader.ml.pipeline import IntegratedMLPipeline, PipelineConfig, cores
from gpt_trader.ml.profiling import Frame, flame_svg

PROFILE = """
# Profile prediction pipeline
from gpt_trader.ml import IntegratedMLPipeline
pipeline = IntegratedMLPipeline()
pipeline.profile_prediction()
"""
OPTIMIZE = """
# Optimize feature engineering
config.feature_engineering = {
    'n_jobs': -1,  # Use all cores
    'cache_features': True,
    'batch_size': 1000
}

# Optimize model training
config.model_training = {
    'early_stopping_rounds': 50,
    'use_gpu': True,
    'n_parallel_trees': 4
}

# Optimize predictions
config.prediction = {
    'batch_predictions': True,
    'cache_models': True,
    'prediction_threads': 4
}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    with Workspace.create(folder, SimulatedClock(datetime(2004, 12, 31, 22, tzinfo=UTC))) as ws:
        (ws.config_dir / "models.yaml").write_text("lightgbm: {num_boost_round: 8}\n")
        ingest(ws, EmbeddedProvider(), ["AAPL", "IBM"])
    return folder


@pytest.fixture
def pipeline(root: Path) -> Iterator[IntegratedMLPipeline]:
    made = IntegratedMLPipeline(root)
    yield made
    made.close()


def test_the_runbooks_profile(root: Path, pipeline: IntegratedMLPipeline, monkeypatch: pytest.MonkeyPatch,
                              capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="no model"):
        pipeline.profile_prediction(seconds=0.1)
    pipeline.train()
    monkeypatch.chdir(root)
    monkeypatch.setattr("gpt_trader.ml.pipeline.IntegratedMLPipeline.profile_prediction.__defaults__", (0.3,))
    space: dict[str, object] = {}
    exec(PROFILE, space)  # noqa: S102 - the runbook's own words
    said = capsys.readouterr().out
    assert "features" in said and "predict" in said and "through C" in said
    space["pipeline"].close()  # type: ignore[attr-defined]
    assert gpt_trader.ml.IntegratedMLPipeline is IntegratedMLPipeline


def test_the_runbooks_optimisation_is_validated_and_used(pipeline: IntegratedMLPipeline) -> None:
    config = pipeline.config
    exec(OPTIMIZE, {"config": config})  # noqa: S102 - the runbook's own words
    models = pipeline.ws.config.models
    assert (models.feature_engineering.n_jobs, models.model_training.n_parallel_trees, models.prediction.prediction_threads) == (-1, 4, 4)
    assert models.model_training.validation_share == config.base.models.model_training.validation_share, "what is not named stays"
    said = config.resolved()
    assert said["feature_engineering.n_jobs"].startswith(f"{len(os.sched_getaffinity(0))} thread") and cores(4) == 4
    with pytest.warns(RuntimeWarning, match="finds no device"):
        trained = pipeline.train()
    assert "the CPU" in said["model_training.use_gpu"]
    settings = trained.model.card["settings"]
    assert settings["early_stopping_rounds"] == 50 and settings["n_parallel_trees"] == 4
    assert b"num_threads=4" in pipeline.predictor().scorer._parameters
    pd.testing.assert_frame_equal(pipeline.features(), pipeline.features(), check_freq=False)
    assert pipeline.features().tail(2).index.equals(pipeline.features(sessions=1).index)
    assert any(pipeline.ws.cache_dir.rglob("*.parquet")), "what was computed is kept"
    many = pipeline.predict()
    config.prediction = {"batch_predictions": False}
    pd.testing.assert_frame_equal(pipeline.predict(), many)
    assert pipeline.ws.config.models.prediction.prediction_threads == 1, "a section that is set anew starts from the files"


def test_the_files_stay_as_they_are(pipeline: IntegratedMLPipeline, root: Path) -> None:
    pipeline.config.prediction = {"cache_models": False}
    assert pipeline.ws.config.models.prediction.cache_models is False
    with Workspace.open(root) as ws:
        assert ws.config.models.prediction.cache_models is True


@pytest.mark.parametrize(("section", "value", "said"), [
    ("feature_engineering", {"n_job": 2}, "n_jobs"), ("model_training", {"early_stopping": 5}, "early_stopping_rounds"),
    ("prediction", {"cache_model": True}, "cache_models"), ("prediction", {"prediction_threads": 0}, "prediction_threads"),
    ("model_training", {"n_parallel_trees": 0}, "greater than or equal to 1"),
    ("feature_engineering", {"batch_size": True}, "not allowed"),
    ("prediction", ["cache_models"], "dict")])
def test_what_the_file_would_not_take_is_refused_with_what_to_do(section: str, value: object, said: str) -> None:
    config = PipelineConfig()
    before = config.models
    with pytest.raises(UsageError, match=said):
        setattr(config, section, value)
    assert config.models == before


def test_a_flame_graph_is_as_wide_as_the_time() -> None:
    calls = (Frame("<b>", "b.py:2", 0.25), Frame("c", "c.py:3", 0.5), Frame("dust", "d.py:4", 0.0001))
    svg = flame_svg(Frame("root", "a.py:1", 1.0, calls), "t & t")
    widths = [float(part.split('width="')[1].split('"')[0]) for part in svg.split("<rect")[1:]]
    assert widths == [999.5, 499.5, 249.5] and "&lt;b&gt; (b.py:2): 25.0%, 250.0 ms" in svg and "t &amp; t" in svg and "dust" not in svg
