"""Desks for tests to copy: made once a process, by the fixtures `data_desk` and `book_desk` of conftest."""
import shutil
from pathlib import Path

from gpt_trader.core.clock import SimulatedClock, parse_utc
from gpt_trader.core.workspace import Workspace
from gpt_trader.dataflow.ingestion import ingest
from gpt_trader.dataflow.providers import EmbeddedProvider
from gpt_trader.trading.permit import grant

LAST = "2013-02-26"  # the desk with a book has lived until this close; three more sessions of bars are there
MADE = "2013-01-01T00:00:00Z"


def make_data_desk(root: Path) -> Path:
    """A workspace with the embedded history and a permit, and no session yet."""
    with Workspace.create(root, SimulatedClock(parse_utc(MADE))) as ws:
        ingest(ws, EmbeddedProvider())
        grant(ws.state_dir, actor="test", reason="a test", at=ws.clock.now())
    return root


def make_book_desk(data_desk: Path, root: Path) -> Path:
    """The same once it has lived through the three sessions up to LAST."""
    import pandas as pd

    from gpt_trader.live.market import Market
    from gpt_trader.live.replay import replay

    with Workspace.open(shutil.copytree(data_desk, root)) as ws:
        bars = Market.load(ws).bars
        replay(ws, 3, market=Market(bars[bars["session"] <= pd.Timestamp(LAST)]))
    return root
