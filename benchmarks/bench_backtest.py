"""Backtests against the best known, on the same strategy, prices and fees, with the same profit to the cent.

*Event-driven.* Long 100 shares of Google while its 10-day mean lies above its 30-day mean, decided after each close, filled at the next
open, one dollar an order at least; against backtesting.py and backtrader. Google, because it had neither split nor dividend in the
embedded history, which the others do not book. Ours is `live.events.event_backtest`, which asks a function each morning; the desk's own
backtest, which lives through each session by the code that trades, has a row of its own: it does far more, and takes far longer.

*Vectorised.* The same strategy for 200 pairs of windows at once, from the positions wanted to the equity curve and profit of each; against
vectorbt's `Portfolio.from_orders`. Its first run, which compiles, is not counted.

Statistics are made by each side as its users get them: backtesting.py always computes its own, ours are asked for.
"""
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from measure import Row, spread, table

from gpt_trader.core.clock import SimulatedClock, parse_utc
from gpt_trader.core.instruments import load_instruments
from gpt_trader.core.workspace import Workspace
from gpt_trader.dataflow.datasets import as_bars
from gpt_trader.dataflow.ingestion import ingest
from gpt_trader.dataflow.providers import EmbeddedProvider
from gpt_trader.live.backtest import backtest
from gpt_trader.live.events import Morning, event_backtest
from gpt_trader.live.forecast import NaiveForecaster
from gpt_trader.live.market import Market
from gpt_trader.live.tape import Costs, Tape
from gpt_trader.live.vector import vector_backtest
from gpt_trader.risk.measures import TRADING_DAYS

PEERS = {"backtesting": "backtesting.py", "backtrader": "backtrader", "vectorbt": "vectorbt"}
SYMBOL, SIZE, FAST, SLOW = "GOOG", 100, 10, 30
DEPOSIT, PER_SHARE, MINIMUM = 1_000_000, 0.005, 1.0
COSTS = Costs(Decimal("0.005"), Decimal("1.00"))
ROUNDS, DESK_SESSIONS = 15, 120
YEAR = 10  # seconds that a year of the desk's own backtest may take


def bars() -> pd.DataFrame:
    """Google's raw bars, in whole cents: the others know no ticks, and ours would round a fill in half a cent against itself."""
    found = as_bars(EmbeddedProvider().bars(SYMBOL))
    found = found.round(dict.fromkeys(("open", "high", "low", "close"), 2))
    return found.assign(adj_close=found["close"])


def prices() -> pd.DataFrame:
    """The bars as the others take them, indexed by session."""
    return bars().set_index("session")[["open", "high", "low", "close", "volume"]].rename(columns=str.capitalize)


def mean(values: Any, n: int) -> np.ndarray:
    """The mean of the last n, NaN before there are as many; in whole cents, so that nobody's rounding decides a crossing."""
    total = np.cumsum(np.rint(np.asarray(values, dtype=float) * 100))
    sums = total[n - 1:] - np.concatenate([[0.0], total[:-n]])
    return np.concatenate([np.full(n - 1, np.nan), sums / n])


def above(frame: pd.DataFrame, fast: int = FAST, slow: int = SLOW) -> np.ndarray:
    """Whether the fast mean lies above the slow one after each close."""
    return np.nan_to_num(mean(frame["Close"], fast) - mean(frame["Close"], slow)) > 0


# ---------------------------------------------------------------- event-driven
def ours(tape: Tape, frame: pd.DataFrame) -> Callable[[], float]:
    """A run that returns the profit in USD."""
    def run() -> float:
        signal = above(frame).tolist()

        def decide(morning: Morning) -> dict[str, int] | None:
            held = morning.held[0]
            if morning.row and signal[morning.row - 1] != (held > 0):
                return {SYMBOL: SIZE if not held else -held}
            return None

        return event_backtest(tape, decide, deposit=DEPOSIT, costs=COSTS).statistics()["profit_usd"]

    return run


def by_backtesting(frame: pd.DataFrame) -> Callable[[], float]:
    """backtesting.py (AGPL; a peer to measure against, never a part of the product), its progress bar off."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    from backtesting import Backtest, Strategy

    class Cross(Strategy):
        def init(self) -> None:
            self.signal = self.I(lambda: above(frame).astype(float), plot=False)

        def next(self) -> None:
            if self.signal[-1] and not self.position:
                self.buy(size=SIZE)
            elif not self.signal[-1] and self.position:
                self.position.close()

    def fee(size: float, price: float) -> float:
        return max(MINIMUM, PER_SHARE * abs(size))

    def run() -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that a trade is open at the end
            stats = Backtest(frame, Cross, cash=DEPOSIT, commission=fee).run()
        return float(stats["_equity_curve"]["Equity"].iloc[-1]) - DEPOSIT

    return run


def by_backtrader(frame: pd.DataFrame) -> Callable[[], float]:
    """backtrader."""
    import backtrader as bt

    class Fees(bt.CommInfoBase):
        params = (("commission", PER_SHARE), ("stocklike", True), ("commtype", bt.CommInfoBase.COMM_FIXED))

        def _getcommission(self, size: float, price: float, pseudoexec: bool) -> float:
            return max(MINIMUM, PER_SHARE * abs(size)) if size else 0.0

    class Cross(bt.Strategy):
        def __init__(self) -> None:
            self.signal = above(frame).tolist()

        def next(self) -> None:
            up = self.signal[len(self) - 1]
            if up and not self.position:
                self.buy(size=SIZE)
            elif not up and self.position:
                self.close()

    def run() -> float:
        cerebro = bt.Cerebro(stdstats=False)
        cerebro.adddata(bt.feeds.PandasData(dataname=frame, openinterest=None))
        cerebro.addstrategy(Cross)
        cerebro.broker.setcash(DEPOSIT)
        cerebro.broker.addcommissioninfo(Fees())
        cerebro.run()
        return float(cerebro.broker.getvalue()) - DEPOSIT

    return run


# ---------------------------------------------------------------- vectorised
def pairs() -> list[tuple[int, int]]:
    """200 pairs of windows."""
    return [(fast, slow) for fast in range(5, 25) for slow in range(30, 80, 5)]


def wide(tape: Tape, columns: int) -> Tape:
    """The symbol's tape once for each pair."""
    def many(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, columns, axis=-1)

    return replace(tape, symbols=tuple(f"{SYMBOL}.{n}" for n in range(columns)), opens=many(tape.opens), closes=many(tape.closes),
                   ticks=many(tape.ticks), lots=many(tape.lots))


def positions(frame: pd.DataFrame) -> np.ndarray:
    """Shares after each open, sessions x pairs."""
    wanted = np.zeros((len(frame), len(pairs())), dtype=np.int64)
    for n, (fast, slow) in enumerate(pairs()):
        wanted[1:, n] = SIZE * above(frame, fast, slow)[:-1]
    return wanted


def vector_ours(tape: Tape, wanted: np.ndarray) -> Callable[[], np.ndarray]:
    """A run that returns each pair's profit in USD; the whole equity curves are made on the way."""
    many = wide(tape, wanted.shape[1])
    return lambda: vector_backtest(many, shares=wanted, deposit=DEPOSIT, costs=COSTS, overdraft=True).gain_cents[-1] / 100


def by_vectorbt(frame: pd.DataFrame, wanted: np.ndarray) -> Callable[[], np.ndarray]:
    """vectorbt: the same changes of position as orders."""
    import vectorbt as vbt

    changes = np.diff(wanted, axis=0, prepend=0).astype(float)
    changes[changes == 0] = np.nan
    close, opens = frame[["Close"]].to_numpy(), frame[["Open"]].to_numpy()
    close, opens = (np.repeat(x, wanted.shape[1], axis=1) for x in (close, opens))
    shown = pd.DataFrame(close, index=frame.index)

    def run() -> np.ndarray:
        book = vbt.Portfolio.from_orders(shown, size=changes, price=opens, fixed_fees=MINIMUM, init_cash=DEPOSIT, freq="1D")
        return book.value().to_numpy()[-1] - DEPOSIT

    return run


# ---------------------------------------------------------------- the desk itself
def desk_rate() -> tuple[float, int]:
    """Sessions a second of the desk's own backtest, and its bars in a session."""
    clock = SimulatedClock(parse_utc("2013-03-05T00:00:00Z"))
    with tempfile.TemporaryDirectory() as folder, Workspace.create(Path(folder) / "w", clock) as ws:
        ingest(ws, EmbeddedProvider(), ["AAPL", "GOOG", "IBM", "MSFT"])
        market = Market.load(ws)
        backtest(ws, 5, market=market, forecaster=NaiveForecaster(0.6))
        started = time.perf_counter()
        backtest(ws, DESK_SESSIONS, market=market, forecaster=NaiveForecaster(0.6))
        return DESK_SESSIONS / (time.perf_counter() - started), market.adj_close.shape[1]


# ---------------------------------------------------------------- side by side
def turns(mine: Callable[[], Any], other: Callable[[], Any], many: int) -> tuple[list[float], list[float]]:
    """Bars a second of both, in turn."""
    rates: tuple[list[float], list[float]] = ([], [])
    for n in range(ROUNDS):
        for which in (0, 1) if n % 2 else (1, 0):
            started = time.perf_counter()
            (mine, other)[which]()
            rates[which].append(many / (time.perf_counter() - started))
    return rates


def row(what: str, name: str, mine: Callable[[], Any], other: Callable[[], Any], many: int) -> Row:
    """Check that both come to the same profit, then measure."""
    a, b = np.asarray(mine()), np.asarray(other())
    if a.shape != b.shape or not np.allclose(a, b, rtol=0, atol=0.006):
        sys.exit(f"{name} does not come to the same profit: {a} and {b}")
    fast, slow = turns(mine, other, many)
    ratios = [x / y for x, y in zip(fast, slow, strict=True)]

    def form(x: float) -> str:
        return f"{x:,.0f} bars/s"

    return Row(what, spread(fast, form), f"{name}: {spread(slow, form)}", spread(ratios, lambda x: f"{x:,.1f}×"), "above 1×",
               statistics.median(ratios) > 1)


def measure() -> list[Row]:
    """A row for each peer that is installed."""
    if missing := [name for package, name in PEERS.items() if find_spec(package) is None]:
        print(f"Not compared with {', '.join(missing)}: not installed. `make bench` installs them.", file=sys.stderr)
    warnings.filterwarnings("ignore", module="backtesting|vectorbt|backtrader")
    frame = prices()
    tape = Tape.of(Market(bars()), load_instruments(None))
    if tape.actions:
        sys.exit(f"{SYMBOL} has splits or dividends, which the others do not book")
    rows, event = [], f"event-driven backtest, {len(frame):,} sessions of one symbol, same profit"
    for package, made in (("backtesting", by_backtesting), ("backtrader", by_backtrader)):
        if find_spec(package) is not None:
            rows.append(row(event, PEERS[package], ours(tape, frame), made(frame), len(frame)))
    if find_spec("vectorbt") is not None:
        wanted = positions(frame)
        what = f"vectorised backtest, {wanted.shape[1]} pairs of windows over {len(frame):,} sessions, same profits"
        rows.append(row(what, PEERS["vectorbt"], vector_ours(tape, wanted), by_vectorbt(frame, wanted), wanted.size))
    sessions, symbols = desk_rate()
    year = TRADING_DAYS / sessions
    rows.append(Row("a year of the desk's own backtest: forecast, sizing, limits, journal, broker and accounts of each session",
                    f"{year:,.1f} s ({sessions:,.0f} sessions/s of {symbols} symbols)", "nothing that does the same", "–",
                    f"under {YEAR} s", year < YEAR))
    return rows


if __name__ == "__main__":
    print(table(measure()))
