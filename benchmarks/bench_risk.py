"""VaR, expected shortfall and their parts for 500 positions over ten years, against a straightforward pandas implementation, in turn.

Ours is `book_risk`, one pass over the scenarios for all four. The other is what one writes with pandas when speed is no matter: returns by
`pct_change`, P&L by multiplying columns, the total sorted, the tail's mean as a weighted sum over it, the parts by a loop over the
positions. Both get the same prices and must give the same figures. Returns are
worked out once by each: ours keeps them for a session, as the pre-trade checks do, so they are measured apart from the figures.
"""
import math
import statistics
import sys
import time

import numpy as np
import pandas as pd
from measure import Row, spread, table
from scipy.special import betainc

from gpt_trader.risk.measures import book_risk, scenario_returns

POSITIONS, SESSIONS, CONFIDENCE, ROUNDS = 500, 2_520, 0.95, 15
GOAL = 10.0


def book() -> tuple[pd.DataFrame, dict[str, float]]:
    """Prices (SESSIONS + 1 rows) of made-up symbols with one common factor, and a long-short book in USD; the same in each run."""
    rng = np.random.default_rng(17)
    names = [f"S{i:03d}" for i in range(POSITIONS)]
    moves = 0.01 * rng.standard_t(4, (SESSIONS, 1)) * rng.uniform(0.5, 1.5, POSITIONS) + 0.015 * rng.standard_t(5, (SESSIONS, POSITIONS))
    prices = 100.0 * np.cumprod(np.vstack([np.ones(POSITIONS), 1.0 + np.clip(moves, -0.5, 0.5)]), axis=0)
    index = pd.bdate_range("2003-01-01", periods=SESSIONS + 1)
    return pd.DataFrame(prices, index=index, columns=names), dict(zip(names, rng.normal(2e5, 4e5, POSITIONS).tolist(), strict=True))


def ours(values: dict[str, float], returns: pd.DataFrame) -> tuple[float, float, dict[str, float], dict[str, float]]:
    """VaR, ES and the parts of both, as the library gives them."""
    risk = book_risk(values, returns, CONFIDENCE)
    return risk.var, risk.es, risk.component_var, risk.component_es


def plain(values: dict[str, float], prices: pd.DataFrame) -> tuple[float, float, dict[str, float], dict[str, float]]:
    """The same by pandas, a step at a time."""
    returns = prices.pct_change().dropna()
    pnl = pd.DataFrame({symbol: returns[symbol] * value for symbol, value in values.items()})
    losses = (-pnl.sum(axis=1)).sort_values(kind="stable")
    n = len(losses)
    rank = math.ceil(n * CONFIDENCE - 1e-9) - 1
    var = losses.iloc[rank]
    weights = pd.Series(0.0, index=losses.index)
    weights.iloc[rank + 1:] = 1.0 / (n * (1.0 - CONFIDENCE))
    weights.iloc[rank] = 1.0 - (n - rank - 1) / (n * (1.0 - CONFIDENCE))
    es = (losses * weights).sum()
    edges = pd.Series([betainc((n + 1) * CONFIDENCE, (n + 1) * (1.0 - CONFIDENCE), i / n) for i in range(n + 1)])
    smooth = pd.Series(edges.diff().dropna().to_numpy(), index=losses.index)
    raw = {symbol: (-pnl[symbol].loc[losses.index] * smooth).sum() for symbol in values}
    scale = var / sum(raw.values())
    by_es = {symbol: (-pnl[symbol].loc[losses.index] * weights).sum() for symbol in values}
    return var, es, {symbol: part * scale for symbol, part in raw.items()}, by_es


def timed(act) -> float:  # type: ignore[no-untyped-def]
    """Milliseconds of one call."""
    start = time.perf_counter()
    act()
    return 1e3 * (time.perf_counter() - start)


def measure() -> list[Row]:
    """Two rows: everything from prices, and the figures alone once the returns are there."""
    prices, values = book()
    returns = scenario_returns(prices)
    mine, theirs = ours(values, returns), plain(values, prices)
    same = np.allclose(mine[:2], theirs[:2], rtol=1e-9) and all(
        math.isclose(a[s], b[s], rel_tol=1e-7, abs_tol=1e-3) for a, b in zip(mine[2:], theirs[2:], strict=True) for s in values)
    if not same:
        sys.exit(f"the two implementations differ: {mine[:2]} and {theirs[:2]}")
    whole, figures, pandas = [], [], []
    for n in range(ROUNDS):
        acts = [lambda: whole.append(timed(lambda: ours(values, scenario_returns(prices)))),
                lambda: figures.append(timed(lambda: ours(values, returns))), lambda: pandas.append(timed(lambda: plain(values, prices)))]
        for act in acts if n % 2 else reversed(acts):
            act()

    def form(x: float) -> str:
        return f"{x:,.1f} ms"

    rows = []
    for what, took in (("from prices", whole), ("on the session's returns", figures)):
        ratios = [b / a for a, b in zip(took, pandas, strict=True)]
        rows.append(Row(f"VaR, ES and components of {POSITIONS} positions, {SESSIONS:,} sessions, {what}", spread(took, form),
                        f"pandas: {spread(pandas, form)}", spread(ratios, lambda x: f"{x:.1f}"), f"at least {GOAL:.0f}",
                        statistics.median(ratios) >= GOAL))
    return rows


if __name__ == "__main__":
    print(table(measure()))
