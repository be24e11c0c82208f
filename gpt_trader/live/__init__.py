"""The desk: feed to features to prediction to sizing to orders."""
from importlib import import_module
from typing import Any

_NAMES = {
    "Market": "market", "Momentum": "strategy", "Strategy": "strategy", "View": "strategy", "Desk": "desk",
    "ReplayReport": "replay", "Backtest": "backtest", "equity_curve": "session", "session_rows": "session",
    "Tape": "tape", "Costs": "tape", "VectorBacktest": "vector", "vector_backtest": "vector", "event_backtest": "events",
}
__all__ = sorted(_NAMES)


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use, so that importing the package costs nothing."""
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
