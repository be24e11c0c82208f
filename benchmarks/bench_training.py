"""Walk-forward training by LightGBM against scikit-learn's HistGradientBoosting: the same folds, rows, features and size of model, in turn.

Both train yearly on an expanding past, purged and embargoed, on one thread each, and predict the same test rows; both grow 200 trees of
15 leaves with at least 100 rows, learning rate 0.03 and L2 of 1, from 80 % of the columns. LightGBM, as models.yaml has it, draws rows as
well, which the other does not offer: so their accuracies stand beside the times. Each run is a process of its own; memory is what its peak
rises by while it trains.
"""
import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from measure import Row, spread, table

ROUNDS = 5  # each in two processes of its own
GOAL = 1.0


def prepared():  # type: ignore[no-untyped-def]
    """Features, labels and folds of the embedded universe, and the headline's settings."""
    import pandas as pd

    from gpt_trader.core.config import load_config
    from gpt_trader.dataflow.datasets import adjusted
    from gpt_trader.dataflow.providers import EmbeddedProvider
    from gpt_trader.ml.features import compute_features
    from gpt_trader.ml.splits import walk_forward_folds
    from gpt_trader.ml.training import labels_for, settings_for, training_table

    provider = EmbeddedProvider()
    bars = adjusted(pd.concat([provider.bars(symbol) for symbol in provider.universe()], ignore_index=True))
    settings = settings_for(load_config(None))
    settings = replace(settings, params=settings.params | {"num_threads": 1})
    rows, known = training_table(compute_features(bars, settings.features), labels_for(bars, settings), settings.features)
    folds = list(walk_forward_folds(known, min_train_years=settings.min_train_years, embargo_sessions=settings.embargo_sessions))
    return rows, known, folds, settings


def ours(rows, known, folds, settings) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Probabilities of all test rows, by the library's own fit."""
    from gpt_trader.ml.training import fit

    said = np.full(len(known), np.nan)
    for fold in folds:
        booster = fit(rows.iloc[fold.train], known["label"].iloc[fold.train], settings, label_end=known["label_end"].iloc[fold.train])
        said[fold.test] = booster.predict(rows.iloc[fold.test].to_numpy(), num_threads=1)
    return said


def other(rows, known, folds, settings) -> np.ndarray:  # type: ignore[no-untyped-def]
    """The same by HistGradientBoostingClassifier."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    p, said = settings.params, np.full(len(known), np.nan)
    X, y = rows.to_numpy(dtype="float64"), known["label"].to_numpy()
    for fold in folds:
        model = HistGradientBoostingClassifier(
            learning_rate=p["learning_rate"], max_iter=settings.num_boost_round, max_leaf_nodes=p["num_leaves"], max_depth=None,
            min_samples_leaf=p["min_data_in_leaf"], l2_regularization=p["lambda_l2"], max_features=p["feature_fraction"],
            early_stopping=False, random_state=p["seed"])
        said[fold.test] = model.fit(X[fold.train], y[fold.train]).predict_proba(X[fold.test])[:, 1]
    return said


def accuracy(said: np.ndarray, label: np.ndarray) -> tuple[int, float]:
    """(rows, share right) of what was predicted."""
    known = np.isfinite(said)
    return int(known.sum()), float(((said[known] >= 0.5) == (label[known] == 1)).mean())


def _alone(which: str) -> dict[str, float]:
    """Seconds of each round and the growth of the peak memory in MB, measured in a process of its own, limited to one thread."""
    import os

    done = subprocess.run([sys.executable, str(Path(__file__)), which], capture_output=True, text=True, check=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=Path(__file__).parent)
    return json.loads(done.stdout.splitlines()[-1])


def _memory(field: str) -> float:
    """A field of this process's status, in MB: VmRSS now, VmHWM the most since it was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def _measure_one(which: str) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: F401  (both processes hold both libraries)

    act, held = {"ours": ours, "other": other}[which], prepared()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, started = _memory("VmRSS"), time.perf_counter()
    said = act(*held)
    seconds = time.perf_counter() - started
    n, share = accuracy(said, held[1]["label"].to_numpy())
    print(json.dumps({"seconds": seconds, "mb": _memory("VmHWM") - before, "n": n, "accuracy": share, "folds": len(held[2])}))


def measure() -> list[Row]:
    """Time, memory and accuracy, side by side."""
    rounds = [(_alone("ours"), _alone("other")) for _ in range(ROUNDS)]
    mine, theirs = zip(*rounds, strict=True)
    ratios = [b["seconds"] / a["seconds"] for a, b in rounds]
    a, b = mine[0], theirs[0]
    assert a["n"] == b["n"] and len({x["accuracy"] for x in mine}) == 1
    memory = [statistics.median(x["mb"] for x in side) for side in (mine, theirs)]
    what = f"walk-forward training, {int(a['folds'])} refits over {int(a['n']):,} test rows, 200 trees, 40 features, one thread"
    return [
        Row(what, f"{spread([x['seconds'] for x in mine], lambda v: f'{v:.2f} s')}, accuracy {a['accuracy']:.3f}",
            f"scikit-learn's HistGradientBoosting: {spread([x['seconds'] for x in theirs], lambda v: f'{v:.2f} s')}, "
            f"accuracy {b['accuracy']:.3f}", spread(ratios, lambda v: f"{v:.1f} times"), "quicker", statistics.median(ratios) > GOAL),
        Row("the same, memory that training adds at its peak", f"{memory[0]:.0f} MB", f"scikit-learn: {memory[1]:.0f} MB",
            f"{memory[0] / memory[1]:.2f}" if memory[1] else "–", "said", True)]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _measure_one(sys.argv[1])
    else:
        print(table(measure()))
