"""Alpha158's features over 500 symbols and 2,500 sessions, all at once against plain pandas, and one bar at a time.

The plain implementation is `plain_features.py`: long bars, `groupby("symbol")` and rolling windows, as one writes them when speed is no
matter. Both get the same bars and must give the same values. Each runs in a process of its own, which tells how much memory it takes
beyond the bars. Where `$QLIB_PYTHON` names an interpreter that has pyqlib (it brings nearly two hundred packages along, so it is no extra
of this project), qlib computes its own Alpha158 from the same bars, in single precision and on all cores.
"""
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from measure import Row, spread, table
from plain_features import NAMES, plain_features

SYMBOLS, SESSIONS, ROUNDS = 500, 2_500, 3
GOAL, GOAL_MS, UPDATES = 10.0, 20.0, 40
CHECKED = 25
"""Symbols whose values are compared, all 158 of each."""


def bars() -> pd.DataFrame:
    """Made-up bars, the same in each run."""
    from gpt_trader.ml.definition import made_up_bars

    frames = made_up_bars(SESSIONS, SYMBOLS)
    first = frames["close"]
    index = pd.MultiIndex.from_product([first.index, first.columns], names=["session", "symbol"])
    return pd.DataFrame({name: frame.to_numpy().ravel() for name, frame in frames.items()}, index=index).reset_index()


def peak() -> float:
    """The most memory that this process had, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(which: str, what: str) -> None:
    """In a process of its own: compute, and print seconds, or the megabytes that it took beyond the bars.

    For the time, as much memory as will be needed is touched once beforehand: how quickly the machine gives memory out is not measured.
    """
    from gpt_trader.ml.features import compute_features

    made = bars()
    compute_features(made.head(SYMBOLS * 5), NAMES)
    if what == "seconds":
        np.ones(500_000_000)
    before, started = peak(), time.perf_counter()
    if which == "plain":
        result: object = dict(plain_features(made))
    else:
        result = compute_features(made, NAMES if which == "ours" else None, n_jobs=-1)
    print(time.perf_counter() - started if what == "seconds" else peak() - before, file=sys.stdout)
    del result


def asked(which: str, what: str) -> float:
    """What `one` prints."""
    done = subprocess.run([sys.executable, __file__, which, what], capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    return float(done.stdout)


def agree() -> None:
    """Stop where the two differ."""
    from gpt_trader.ml.features import compute_features

    made = bars()
    some = made[made["symbol"].isin(made["symbol"].unique()[:CHECKED])]
    ours = compute_features(some, NAMES).swaplevel().sort_index()
    for name, values in plain_features(some):
        if not np.allclose(ours[name].to_numpy(), values.to_numpy(), rtol=1e-6, atol=1e-9, equal_nan=True):
            sys.exit(f"the two implementations of {name} differ")


def updates(names: "list[str] | None") -> tuple[list[float], int]:
    """Milliseconds of each update of all symbols by one session, and how many features that gave."""
    from gpt_trader.ml.incremental import IncrementalFeatures

    made = bars()
    days = np.sort(made["session"].unique())
    made = made[made["session"] >= days[-300 - UPDATES]]
    inc = IncrementalFeatures.from_bars(made[made["session"] < days[-UPDATES]], names)
    took, count = [], 0
    for day in days[-UPDATES:]:
        today = made[made["session"] == day]
        started = time.perf_counter()
        count = inc.update(today).shape[1]
        took.append(1e3 * (time.perf_counter() - started))
    return took, count


def qlib_row(ours: list[float]) -> list[Row]:
    """qlib's own, once, beside our times; no row where it is not to be had."""
    python = os.environ.get("QLIB_PYTHON")
    if not python:
        return []
    from gpt_trader.ml.definition import made_up_bars

    frames = made_up_bars(SESSIONS, SYMBOLS)
    frames["vwap"] = (frames["high"] + frames["low"] + frames["close"]) / 3
    days = [f"{day:%Y-%m-%d}" for day in frames["close"].index]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("calendars", "instruments", *(f"features/{symbol.lower()}" for symbol in frames["close"])):
            (folder / part).mkdir(parents=True)
        (folder / "calendars/day.txt").write_text("\n".join(days) + "\n")
        (folder / "instruments/all.txt").write_text("".join(f"{symbol}\t{days[0]}\t{days[-1]}\n" for symbol in frames["close"]))
        for column, frame in frames.items():
            for symbol in frame:
                np.hstack([0, frame[symbol]]).astype("<f4").tofile(folder / f"features/{symbol.lower()}/{column}.day.bin")
        script = Path(__file__).with_name("qlib_alpha158.py")
        done = subprocess.run([python, script, folder], capture_output=True, text=True, check=True, cwd=folder)
    seconds, megabytes, *_ = map(float, done.stdout.split())
    middle = statistics.median(ours)
    return [Row(f"the same 158 features, {SYMBOLS} symbols, {SESSIONS:,} sessions", f"{middle:.1f} s",
                f"qlib's Alpha158: {seconds:.1f} s, {megabytes:,.0f} MB in its largest process", f"{seconds / middle:.1f}", "more than 1",
                seconds > middle)]


def measure() -> list[Row]:
    """The panel, with all features beside it for their cost, and one bar."""
    agree()
    took: dict[str, list[float]] = {"ours": [], "plain": []}
    for n in range(ROUNDS):
        for which in ("ours", "plain") if n % 2 else ("plain", "ours"):
            took[which].append(asked(which, "seconds"))
    space = {which: asked(which, "megabytes") for which in (*took, "all")}
    ratios = [theirs / mine for mine, theirs in zip(took["ours"], took["plain"], strict=True)]

    def form(which: str) -> str:
        return f"{spread(took[which], lambda x: f'{x:.1f} s')}, {space[which]:,.0f} MB"

    from gpt_trader.ml.features import FEATURES

    beside = f"all {len(FEATURES)} take {asked('all', 'seconds'):.1f} s, {space['all']:,.0f} MB"
    rows = [Row(f"{len(NAMES)} features (Alpha158), {SYMBOLS} symbols, {SESSIONS:,} sessions; {beside}", form("ours"),
                f"pandas, groupby and rolling: {form('plain')}", spread(ratios, lambda x: f"{x:.1f}"), f"at least {GOAL:.0f}",
                statistics.median(ratios) >= GOAL), *qlib_row(took["ours"])]
    for names in (list(NAMES), None):
        each, count = updates(names)
        middle = statistics.median(each)
        rows.append(Row(f"{count} features of {SYMBOLS} symbols, one new bar each", spread(each, lambda x: f"{x:.1f} ms"), "", "",
                        f"under {GOAL_MS:.0f} ms" if names else "none", names is None or middle < GOAL_MS))
    return rows


if __name__ == "__main__":
    if sys.argv[1:]:
        one(*sys.argv[1:])
    else:
        print(table(measure()))
