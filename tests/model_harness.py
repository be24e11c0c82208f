"""A desk with a champion, its predecessor and half a year of predictions, made of the embedded prices; and faults for its newest months.

The desk knows the prices up to `END`; its models were trained to `CUT`. A fault changes what came after `CUT`, so that the models are
those of an honest past.
"""
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.workspace import Workspace
from gpt_trader.dataflow.datasets import adjusted, commit_bars, load_bars
from gpt_trader.dataflow.ingestion import ingest
from gpt_trader.dataflow.providers import EmbeddedProvider
from gpt_trader.ml.boosters import averaged
from gpt_trader.ml.features import compute_features, features_hash
from gpt_trader.ml.prediction import Predictor
from gpt_trader.ml.registry import champion, identity, promote, register, train_and_register
from gpt_trader.ml.training import data_hash, labels_for, settings_for, train_final, walk_forward

HEAD = "range_expansion"
BEFORE, CUT, END = "2011-12-30", "2012-07-31", "2013-02-27"
QUICK = "lightgbm: {{num_boost_round: 25, learning_rate: 0.15}}\nheads: {{range_expansion: {{judged_on: {judged_on}}}}}\n"
PRICES = ["open", "high", "low", "close"]


def trained_desk(root: Path, judged_on: int = 400) -> Path:
    """A workspace with two models of the headline head, the newer one champion; no prediction yet."""
    with Workspace.create(root, SimulatedClock(datetime(2013, 2, 27, 22, tzinfo=UTC))) as ws:
        (ws.config_dir / "models.yaml").write_text(QUICK.format(judged_on=judged_on))
        ingest(ws, EmbeddedProvider(), ws.config.app.desk.universe)
        bars = adjusted(load_bars(ws, ws.config.app.desk.universe))
        for end in (BEFORE, CUT):
            assert train_and_register(ws, bars, HEAD, end=end).model.status == "champion"
    return root


def copied(base: Path, root: Path) -> Workspace:
    """A desk of its own, as the base is."""
    shutil.copytree(base, root)
    return Workspace.open(root)


def live(ws: Workspace) -> pd.DataFrame:
    """The champion's predictions of every session from `CUT` to `END`, written down the evening before and settled, as the desk would have.

    Returns the settled rows.
    """
    bars, model = adjusted(load_bars(ws, ws.config.app.desk.universe, end=END)), Predictor.load(ws, HEAD)
    table = compute_features(bars, model.model.features)
    labels = labels_for(bars, model.settings).reindex(table.index)
    rows = labels.assign(probability=model.predict(table), made=labels.index.get_level_values("session"))
    rows = rows[(rows["made"] > CUT) & rows["label_end"].notna()].reset_index()
    with ws.telemetry.transaction() as db:
        for r in rows.itertuples():
            made, over = (f"{d:%Y-%m-%d}T22:00:00.000000Z" for d in (r.made, r.label_end))
            db.execute("INSERT INTO predictions (session, symbol, head, model_version, probability, predicted, naive, majority, label, "
                       "made_at, settled_at, features_hash) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
                       [f"{r.label_end:%Y-%m-%d}", r.symbol, HEAD, model.model.version, r.probability, int(r.probability >= 0.5),
                        *(None if pd.isna(v) else int(v) for v in (r.naive, model.model.card["majority"], r.label)), made, over,
                        model.model.card["features_hash"]])
    return ws.telemetry.frame("SELECT * FROM predictions WHERE label IS NOT NULL ORDER BY session, symbol")


def changed_bars(ws: Workspace, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Put what `change` makes of each symbol's bars in the stored ones' place: past the checks of `ingest`, as a faulty feed would."""
    bars = load_bars(ws, ws.config.app.desk.universe)
    with ws.lock("data", timeout=5):
        new = {str(s): change(part.reset_index(drop=True)).assign(symbol=s) for s, part in bars.groupby("symbol")}
        commit_bars(ws, new, {s: {"provider": "test"} for s in new})


def _ticks(part: pd.DataFrame, new: np.ndarray) -> pd.DataFrame:
    return part.assign(**{c: part[c].round(2).where(new, part[c]) for c in PRICES})


# ---------------------------------------------------------------- faults
def overnight(part: pd.DataFrame) -> pd.DataFrame:
    """Drift: all news comes overnight, and the day itself is narrow and even, as wide as the dice say. Closes, and the market, stay."""
    rng, new = np.random.default_rng(len(part)), (part["session"] > CUT).to_numpy()
    wide = part["close"] * 0.006 * np.exp(rng.normal(0, 0.15, len(part)))
    at, opened = rng.uniform(0.2, 0.8, len(part)), rng.uniform(0.2, 0.8, len(part))
    low = part["close"] - at * wide
    done = {"low": low, "high": low + wide, "open": low + opened * wide}
    return _ticks(part.assign(**{c: np.where(new, v, part[c]) for c, v in done.items()}), new)


def crisis(part: pd.DataFrame, days: int = 40, factor: float = 5.0) -> pd.DataFrame:
    """Market change: in the newest weeks every move, within the day and over night, is `factor` times as large."""
    part = part[part["session"] <= END].reset_index(drop=True)
    new = np.arange(len(part)) >= len(part) - days
    scale = part["close"] / part["adj_close"]
    moves = np.log(part["adj_close"]).diff().fillna(0) * np.where(new, factor, 1)
    close = (part["adj_close"].iloc[0] * np.exp(moves.cumsum()) * scale).round(2)
    done = {c: np.where(new, close * np.exp(factor * np.log(part[c] / part["close"])), part[c]) for c in ("open", "high", "low")}
    done = _ticks(part.assign(close=np.where(new, close, part["close"]), **done), new)
    high, low = done[PRICES].max(axis=1), done[PRICES].min(axis=1)
    return done.assign(high=high.where(new, done["high"]), low=low.where(new, done["low"]),
                       adj_close=np.where(new, done["close"] / scale, part["adj_close"]))


def broken_feed(part: pd.DataFrame) -> pd.DataFrame:
    """Bad data: on every other day the feed delivers high and low exchanged."""
    bad = ((part["session"] > CUT) & (part.index % 2 == 0)).to_numpy()
    return part.assign(high=np.where(bad, part["low"], part["high"]), low=np.where(bad, part["high"], part["low"]))


def noisy_champion(ws: Workspace, seed: int = 11) -> None:
    """Label noise: the final fit got outcomes that were drawn by lot, while its walk-forward was honest; it was promoted."""
    settings = settings_for(ws.config, HEAD)
    bars = adjusted(load_bars(ws, ws.config.app.desk.universe, end=CUT))
    table, labels = compute_features(bars, settings.features), labels_for(bars, settings)
    lots = np.random.default_rng(seed).integers(0, 2, len(labels)).astype(float)
    noisy = labels.assign(label=labels["label"].where(labels["label"].isna(), lots))
    changed = replace(settings, seed=settings.seed + 1)
    parts = identity(changed, data_hash(table, noisy, changed, end=CUT), features_hash(changed.features))
    model = register(ws, train_final(table, noisy, changed, end=CUT), walk_forward(table, labels, changed, end=CUT), changed, parts)
    assert promote(ws, HEAD, model.version) == champion(ws, HEAD)


def heavy_champion(ws: Workspace, copies: int = 800) -> None:
    """Slowness: the champion's trees many times over, averaged: the same answers from a file that takes its time to be read and built."""
    now = champion(ws, HEAD)
    assert now is not None
    text = averaged([now.read(ws).decode()] * copies).model_to_string()
    settings = settings_for(ws.config, HEAD)
    bars = adjusted(load_bars(ws, ws.config.app.desk.universe, end=CUT))
    table, labels = compute_features(bars, settings.features), labels_for(bars, settings)
    changed = replace(settings, seed=settings.seed + 2)
    parts = identity(changed, data_hash(table, labels, changed, end=CUT), features_hash(changed.features))
    trained = replace(train_final(table, labels, changed, end=CUT), model_text=text)
    model = register(ws, trained, walk_forward(table, labels, changed, end=CUT), changed, parts)
    assert promote(ws, HEAD, model.version) == champion(ws, HEAD)


def turned_outcomes(ws: Workspace, share: float = 0.33, seed: int = 3) -> int:
    """Outcomes written down wrongly: a third of the settled ones turned round. Returns how many."""
    rows = ws.telemetry.frame("SELECT session, symbol FROM predictions WHERE label IS NOT NULL ORDER BY session, symbol")
    chosen = rows[np.random.default_rng(seed).random(len(rows)) < share]
    with ws.telemetry.transaction() as db:
        for r in chosen.itertuples():
            db.execute("UPDATE predictions SET label = 1 - label WHERE session = ? AND symbol = ?", [r.session, r.symbol])
    return len(chosen)
