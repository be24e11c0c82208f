"""Predicting through LightGBM's C interface against LightGBM's own Python package, in turn, on the same model: a row, a batch, by symbol.

The model is as models.yaml makes it (its trees, leaves and features), on made-up rows with a twentieth of the values missing. Both sides
get the same rows and must give the same probabilities, bit by bit. A row is what a caller has, a float64 array of shape (features,);
`Booster.predict` takes it as a table of one row. It is measured twice: the same row again, where what surrounds LightGBM is most of the
time, and another row each time, where walking the trees, which is LightGBM's own work on both sides, costs the processor's caches and its
guesses, and is most of ours. By symbol is the service's whole way, from the newest bars' features (kept) to the answer.
"""
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import lightgbm as lgb
import numpy as np
import psutil
from measure import Row, spread, table

from gpt_trader.core.config import load_config
from gpt_trader.ml.scorer import Scorer
from gpt_trader.ml.training import settings_for

ROWS, ROUNDS, SINGLE, MANY = 10_000, 21, 400, 50
GOAL, WITHIN = 4.0, 1.10


def trained() -> tuple[lgb.Booster, np.ndarray]:
    """A booster with the settings of the headline head, and rows to predict; the same in each run."""
    settings = settings_for(load_config(None))
    rng = np.random.default_rng(17)
    rows = rng.normal(size=(2 * ROWS, len(settings.features)))
    rows[rng.random(rows.shape) < 0.05] = np.nan
    label = (np.nan_to_num(rows[:, 0] * rows[:, 1] + rows[:, 2]) + rng.normal(size=len(rows)) > 0).astype(float)
    booster = lgb.train(dict(settings.params), lgb.Dataset(rows[ROWS:], label[ROWS:]), settings.num_boost_round)
    return lgb.Booster(model_str=booster.model_to_string()), rows[:ROWS]


def timed(act: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def in_turn(ours: Callable[[], object], theirs: Callable[[], object]) -> tuple[list[float], list[float]]:
    """Seconds of each, measured one after the other, the order changing."""
    a: list[float] = []
    b: list[float] = []
    for n in range(ROUNDS):
        for mine in (True, False) if n % 2 else (False, True):
            (a if mine else b).append(timed(ours if mine else theirs))
    return a, b


def by_symbol_row() -> Row:
    """The service on the embedded market: microseconds to a symbol's answer, reported beside the row itself."""
    from datetime import UTC, datetime
    from pathlib import Path

    from gpt_trader.core.clock import SimulatedClock
    from gpt_trader.core.workspace import Workspace
    from gpt_trader.dataflow.datasets import adjusted, load_bars
    from gpt_trader.dataflow.ingestion import ingest
    from gpt_trader.dataflow.providers import EmbeddedProvider
    from gpt_trader.ml.registry import train_and_register
    from gpt_trader.ml.service import PredictionService, by_symbol, newest_features

    clock = SimulatedClock(datetime(2013, 3, 1, 22, tzinfo=UTC))
    with tempfile.TemporaryDirectory() as folder, Workspace.create(Path(folder), clock) as ws:
        (ws.config_dir / "models.yaml").write_text("walk_forward: {min_train_years: 8, bootstrap_samples: 200}\n")
        ingest(ws, EmbeddedProvider(), ws.config.app.desk.universe)
        model = train_and_register(ws, adjusted(load_bars(ws, ws.config.app.desk.universe)), end="2012-12-31").model
        if model.status != "champion":
            sys.exit("the benchmark's model was not promoted, so nobody answers")
        service, booster = PredictionService(ws), lgb.Booster(model_str=model.read(ws).decode())
        features = newest_features(service).table
        day = features.index.get_level_values("session").max()

        def theirs() -> None:
            for symbol in ws.config.app.desk.universe * 10:
                booster.predict(features.loc[(day, symbol), list(model.features)].to_numpy(dtype="float64")[None], num_threads=1)

        def ours() -> None:
            for symbol in ws.config.app.desk.universe * 10:
                by_symbol(service, symbol)

        for symbol in ws.config.app.desk.universe:
            row = features.loc[[(day, symbol)], list(model.features)].to_numpy(dtype="float64")
            if by_symbol(service, symbol)[1].probabilities[0] != booster.predict(row, num_threads=1)[0]:
                sys.exit(f"{symbol}: the service and LightGBM differ")
        mine, other = in_turn(ours, theirs)
        count = 10 * len(ws.config.app.desk.universe)
        ratios = [b / a for a, b in zip(mine, other, strict=True)]
        return Row("answer for a symbol of the workspace's data", spread([1e6 * x / count for x in mine], lambda x: f"{x:,.0f} µs"),
                   f"the row looked up, Booster.predict: {spread([1e6 * x / count for x in other], lambda x: f'{x:,.0f} µs')}",
                   spread(ratios, lambda x: f"{x:.2f}"), "reported", True)


def measure() -> list[Row]:
    """A row, a batch, a symbol."""
    booster, rows = trained()
    process, text = psutil.Process(), booster.model_to_string()
    scorer, before = Scorer(text), process.memory_info().rss
    kept = [Scorer(text) for _ in range(MANY)]
    holds = (process.memory_info().rss - before) / 1e6 / len(kept)
    expected = booster.predict(rows, num_threads=1)
    if not np.array_equal(scorer.many(rows), expected) or any(scorer.one(r) != p for r, p in zip(rows[:500], expected, strict=False)):
        sys.exit("the scorer and LightGBM differ")

    def each(seconds: list[float]) -> str:
        return spread([1e6 * s / SINGLE for s in seconds], lambda x: f"{x:.1f} µs")

    def rate(seconds: list[float]) -> str:
        return spread([ROWS / s for s in seconds], lambda x: f"{x:,.0f} rows/s")

    found = []
    for which, few in (("the same row again", [rows[0]] * SINGLE), ("another row each time", list(rows[:SINGLE]))):
        mine, theirs = in_turn(lambda r=few: [scorer.one(x) for x in r],  # type: ignore[misc]
                               lambda r=few: [booster.predict(x[None], num_threads=1) for x in r])  # type: ignore[misc]
        ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
        found.append(Row(f"{which} through {scorer.n_trees} trees, {scorer.n_features} features ({holds:.1f} MB a model)", each(mine),
                         f"Booster.predict: {each(theirs)}", spread(ratios, lambda x: f"{x:.1f}"), f"at least {GOAL:.0f}",
                         statistics.median(ratios) >= GOAL))
    mine, theirs = in_turn(lambda: scorer.many(rows), lambda: booster.predict(rows, num_threads=1))
    cost = [a / b for a, b in zip(mine, theirs, strict=True)]
    found.append(Row(f"a batch of {ROWS:,} rows, one thread", rate(mine), f"Booster.predict: {rate(theirs)}",
                     spread(cost, lambda x: f"{x:.2f} of its time"), f"at most {WITHIN:.2f}", statistics.median(cost) <= WITHIN))
    return [*found, by_symbol_row()]


if __name__ == "__main__":
    print(table(measure()))
