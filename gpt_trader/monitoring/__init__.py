"""Rules to alerts to people."""
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gpt_trader.core.telemetry import StructuredLogger as StructuredLogger

# The names that the operations runbook imports from here, each loaded when it is first asked for.
_LAZY = {"StructuredLogger": "gpt_trader.core.telemetry"}
__all__ = ["StructuredLogger"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
