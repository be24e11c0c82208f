"""History and real-time market data, validated."""
from importlib import import_module
from typing import Any

_NAMES = {
    "load_bars": "datasets", "adjusted": "datasets", "corporate_actions": "datasets",
    "EmbeddedProvider": "providers", "CsvFolder": "providers", "ParquetFolder": "providers", "HttpCsv": "providers",
    "check_bars": "quality", "QualityReport": "quality", "ingest": "ingestion", "ingest_folder": "ingestion", "ReplayFeed": "feed",
}
__all__ = list(_NAMES)


def __getattr__(name: str) -> Any:
    """The public names, imported on first use: pandas stays out of start-up."""
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
