"""The honest table of README: the heads of models.yaml as it ships, on the embedded universe and on skfolio's 20 stocks (closes alone).

Everything is as models.yaml says, nothing is searched; the journal of a workspace made for it records that the parameters were frozen
before the hold-out was opened. `make honest` prints it; a test holds README's embedded figures to it.
"""
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime

import pandas as pd

from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.workspace import Workspace
from gpt_trader.dataflow.ingestion import ingest
from gpt_trader.dataflow.providers import EmbeddedProvider
from gpt_trader.ml.heads import HeadTrained, train_heads
from gpt_trader.ml.honest import markdown
from gpt_trader.ml.retraining import Known, known_now

Say = Callable[[str], None]


def embedded(say: Say = lambda _: None) -> list[HeadTrained]:
    """AAPL, GOOG, IBM, MSFT, 2000 to 2013, as the package holds them."""
    with tempfile.TemporaryDirectory() as folder, Workspace.create(folder, SimulatedClock(datetime(2013, 3, 1, 23, tzinfo=UTC))) as ws:
        ingest(ws, EmbeddedProvider(), ws.config.app.desk.universe)
        return train_heads(ws, known=known_now(ws), say=say)


def twenty(say: Say = lambda _: None) -> list[HeadTrained]:
    """Twenty large US stocks, closes from 1990 to 2022, out of skfolio's wheel: no network."""
    from skfolio.datasets import load_sp500_dataset

    prices = load_sp500_dataset()
    bars = prices.rename_axis(index="session", columns="symbol").stack().rename("close").reset_index()
    known = Known(bars.assign(session=pd.to_datetime(bars["session"])), tuple(prices.columns), ())
    with tempfile.TemporaryDirectory() as folder, Workspace.create(folder, SimulatedClock(datetime(2022, 12, 30, 23, tzinfo=UTC))) as ws:
        return train_heads(ws, known=known, say=say)


def written(title: str, done: list[HeadTrained]) -> str:
    """A title, the table, and what has to be said below it."""
    columns = [c for head in done for c in head.columns]
    said = [f"*{head.head}*: {head.impossible}" for head in done if head.impossible]
    said += [f"*{c.title}*: {c.health.sentence}" + (f"; {c.note}" if c.note else "") + "." for c in columns]
    dropped = [note.removeprefix("feature ").split(" is dropped")[0] for head in done for note in head.notes if " is dropped" in note]
    said += [f"Dropped for want of inputs: {', '.join(dict.fromkeys(dropped))}."] if dropped else []
    return "\n\n".join([f"**{title}**", markdown(columns), "\n".join(f"- {line}" for line in said)])


if __name__ == "__main__":
    import sys

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    print(written("The embedded universe: AAPL, GOOG, IBM, MSFT, 2000 to 2013", embedded(say)), end="\n\n")
    print(written("Twenty large US stocks, closes alone, 1990 to 2022 (skfolio's data set)", twenty(say)))
