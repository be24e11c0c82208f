"""Research to production: features, labels, splits, training, registry, prediction."""
from importlib import import_module
from typing import Any

# Public names and where they live. They are imported when first asked for: LightGBM and pandas stay out of start-up.
_NAMES = {
    "compute_features": "features", "make_labels": "labels", "walk_forward": "training", "evaluate": "evaluation",
    "train_and_register": "registry", "champion": "registry", "promote": "registry",
    "Predictor": "prediction", "forecast": "prediction", "accuracy": "prediction", "check_model": "prediction",
    "PredictionService": "service",
    "IntegratedMLPipeline": "pipeline", "profile_prediction": "profiling", "analyze_predictions": "analysis", "watch_drift": "watch",
}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_NAMES]
