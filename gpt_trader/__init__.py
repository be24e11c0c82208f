"""Trading operations that run themselves from notebooks."""
from typing import Any

__version__ = "0.1.0"


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext gpt_trader`: magics and cards, in JupyterLab or IPython."""
    from importlib import import_module  # by name: rooms below the dashboards import this package, and it must not import upwards for them

    import_module("gpt_trader.dashboards.magics").load(shell)


def unload_ipython_extension(shell: Any) -> None:
    """`%unload_ext gpt_trader`."""
    from importlib import import_module

    import_module("gpt_trader.dashboards.magics").unload(shell)
