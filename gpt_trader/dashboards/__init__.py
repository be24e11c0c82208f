"""Panels and pages: one source for the dashboard, the reports and what a quant sees in JupyterLab."""
from importlib import import_module
from typing import Any

_PUBLIC = {"Panel": "panel", "figure_of": "panel", "PAGES": "pages", "draw_page": "pages", "open_page": "live"}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    """Load a public name from its module on first use, so that importing the package costs nothing."""
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PUBLIC[name]}"), name)
