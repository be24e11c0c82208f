"""Alpha158's factors as one writes them with pandas when speed is no matter: long bars, `groupby("symbol")`, rolling windows.

Written apart from the library, so that it is a check of it as well as a measure for it. Where qlib adds 1e-12 to a denominator this
leaves NaN, and `corr` takes ln(volume), as the library does.
"""
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

WINDOWS = (5, 10, 20, 30, 60)
SIMPLE = ("kmid", "klen", "kmid2", "kup", "kup2", "klow", "klow2", "ksft", "ksft2", "open0", "high0", "low0", "vwap0")
ROLLING = ("roc", "ma", "std", "beta", "rsqr", "resi", "max", "min", "qtlu", "qtld", "rank", "rsv", "imax", "imin", "imxd", "corr", "cord",
           "cntp", "cntn", "cntd", "sump", "sumn", "sumd", "vma", "vstd", "wvma", "vsump", "vsumn", "vsumd")
NAMES = (*SIMPLE, *(f"{name}_{n}" for name in ROLLING for n in WINDOWS))


def plain_features(bars: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """Name and values of each, indexed by (session, symbol) in the order of symbol, then session."""
    df = bars.set_index(["symbol", "session"]).sort_index()
    symbol = df.index.get_level_values("symbol")

    def lag(x: pd.Series, n: int = 1) -> pd.Series:
        return x.groupby(symbol, sort=False).shift(n)

    def rolling(x: pd.Series, n: int, act: Callable[..., pd.Series]) -> pd.Series:
        return act(x.groupby(symbol, sort=False).rolling(n)).droplevel(0)

    o, h, low, c, v = (df[k] for k in ("open", "high", "low", "close", "volume"))
    width, top, bottom = (h - low).where(h > low), np.maximum(o, c), np.minimum(o, c)
    for name, x in zip(SIMPLE, ((c - o) / o, (h - low) / o, (c - o) / width, (h - top) / o, (h - top) / width, (bottom - low) / o,
                                (bottom - low) / width, (2 * c - h - low) / o, (2 * c - h - low) / width, o / c, h / c, low / c,
                                (h + low + c) / 3 / c), strict=True):
        yield name, x
    before, v_before, log_v = lag(c), lag(v), np.log(v.where(v > 0))
    known = before.notna() & c.notna()
    up, down = (c > before).astype(float).where(known), (c < before).astype(float).where(known)
    rise, fall = (c - before).clip(lower=0), (before - c).clip(lower=0)
    v_rise, v_fall = (v - v_before).clip(lower=0), (v_before - v).clip(lower=0)
    ratio, v_ratio = c / before, np.log(v / v_before.where(v_before > 0) + 1)
    turmoil = (ratio - 1).abs() * v

    def corr(x: pd.Series, y: pd.Series, n: int) -> pd.Series:
        both = pd.DataFrame({"x": x, "y": y}).groupby(symbol, sort=False)
        return pd.concat([one["x"].rolling(n).corr(one["y"]) for _, one in both]).clip(-1, 1)

    for n in WINDOWS:
        time = np.arange(n) - (n - 1) / 2
        slope = rolling(c, n, lambda r: r.apply(lambda w, t=time: (t * w).sum() / (t * t).sum(), raw=True))  # noqa: B023
        mean, std = rolling(c, n, lambda r: r.mean()), rolling(c, n, lambda r: r.std())
        high, least = rolling(h, n, lambda r: r.max()), rolling(low, n, lambda r: r.min())
        at_high = rolling(h, n, lambda r: r.apply(lambda w: w.argmax() + 1, raw=True))
        at_low = rolling(low, n, lambda r: r.apply(lambda w: w.argmin() + 1, raw=True))
        ups, downs = rolling(up, n, lambda r: r.mean()), rolling(down, n, lambda r: r.mean())
        rises, falls = rolling(rise, n, lambda r: r.sum()), rolling(fall, n, lambda r: r.sum())
        v_rises, v_falls = rolling(v_rise, n, lambda r: r.sum()), rolling(v_fall, n, lambda r: r.sum())
        moved, v_moved = (rises + falls).where(rises + falls > 0), (v_rises + v_falls).where(v_rises + v_falls > 0)
        turmoil_mean = rolling(turmoil, n, lambda r: r.mean())
        values = (lag(c, n) / c, mean / c, std / c, slope / c,
                  slope**2 * (time**2).sum() / (std**2 * (n - 1)).where(std > 0), (c - mean - slope * (n - 1) / 2) / c, high / c, least / c,
                  rolling(c, n, lambda r: r.quantile(0.8)) / c, rolling(c, n, lambda r: r.quantile(0.2)) / c,
                  rolling(c, n, lambda r: r.rank(pct=True)), (c - least) / (high - least).where(high > least), at_high / n, at_low / n,
                  (at_high - at_low) / n, corr(c, log_v, n), corr(ratio, v_ratio, n), ups, downs, ups - downs, rises / moved, falls / moved,
                  (rises - falls) / moved, rolling(v, n, lambda r: r.mean()) / v.where(v > 0),
                  rolling(v, n, lambda r: r.std()) / v.where(v > 0),
                  rolling(turmoil, n, lambda r: r.std()) / turmoil_mean.where(turmoil_mean > 0), v_rises / v_moved, v_falls / v_moved,
                  (v_rises - v_falls) / v_moved)
        for name, x in zip(ROLLING, values, strict=True):
            yield f"{name}_{n}", x
