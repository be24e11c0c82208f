"""Rules to alerts to people."""
from importlib import import_module
from typing import Any

_PUBLIC = {
    "StructuredLogger": "gpt_trader.core.telemetry",
    "Rule": "gpt_trader.monitoring.rules",
    "evaluate": "gpt_trader.monitoring.alerts",
    "open_alerts": "gpt_trader.monitoring.alerts",
    "acknowledge": "gpt_trader.monitoring.alerts",
    "notify": "gpt_trader.monitoring.notify",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module when it is first asked for."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)
