"""The pre-trade chain against the straightforward one, on the same orders and books, in turn in one run.

Ours is `PreTrade.check` with every limit of the packaged risk.yaml in force, VaR and expected shortfall over 500 scenarios included. The
other adds the book up anew for each order, with dicts and pandas, as one would write it first: `tests/slow_limits.py`, by which the chain
is tested. Both must say the same of each order, or nothing is reported.

Two figures for each size of book: an order checked against a book as it stands, and a stream in which each order joins the book and the
next is checked with it working.
"""
import statistics
import sys
import time
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
from measure import Row, spread, table

from gpt_trader.core.config import load_config
from gpt_trader.core.instruments import Instrument, Instruments
from gpt_trader.risk.limits import Book, Limits, likeness, limits_from
from gpt_trader.risk.pretrade import PreTrade
from gpt_trader.trading.broker import OrderRequest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from slow_limits import check_slowly

ROUNDS, BLOCK = 25, 40
GOAL = 50e-6  # seconds an order
MORNING = datetime(2013, 2, 28, 14, tzinfo=UTC)


def desk(positions: int) -> tuple[Book, Limits, Instruments, list[OrderRequest]]:
    """A book of so many positions, and orders to add to it, some of which are refused."""
    symbols = [f"S{n:03}" for n in range(positions)]
    instruments = Instruments({s: Instrument(s, s, "XNYS", "USD", Decimal("0.01"), Decimal(1), "XNYS") for s in symbols})
    moves = np.random.default_rng(7).normal(0, 0.01, (500, positions))
    each = Decimal(int(25_000 / positions))
    volumes = dict.fromkeys(symbols, 1e6)
    book = Book(equity=Decimal(5_000_000), cash=Decimal(2_500_000), quantities=dict.fromkeys(symbols, each), now=MORNING,
                prices=dict.fromkeys(symbols, Decimal(100)), mean_volume=volumes, session=date(2013, 2, 28),
                returns=pd.DataFrame(moves, columns=symbols))
    # a stream of more orders than a session may have: the counts are off, everything that is added up is on
    limits = replace(limits_from(load_config(None).risk), max_orders_per_minute=10**6, max_orders_per_session=10**6, max_open_orders=10**6)
    kinds = [("limit", Decimal("99.50")), ("market", None), ("limit", Decimal("80.00"))]
    orders = []
    for n in range(ROUNDS * BLOCK):
        kind, price = kinds[n % 3]
        orders.append(OrderRequest(f"o-{n}", symbols[n % positions], "sell" if n % 7 == 6 else "buy", Decimal(1 + n % 97), kind, price))
    return book, limits, instruments, orders


def agree(book: Book, limits: Limits, instruments: Instruments, orders: list[OrderRequest]) -> int:
    """Whether both say the same of each order while those that pass join the book; how many were refused. Exits when they differ."""
    chain, refused = PreTrade(book, limits, instruments), 0
    for order in orders:
        mine, theirs = chain.check(order), check_slowly(order, book, limits, instruments)
        if [r.limit for r in mine] != [s.limit for s in theirs]:
            sys.exit(f"the two chains do not say the same of {order}: {mine} and {theirs}")
        refused += bool(mine)
        if not mine:
            working = dict(book.working_buys if order.side == "buy" else book.working_sells)
            working[order.symbol] = working.get(order.symbol, Decimal(0)) + order.quantity
            book = replace(book, orders_sent=book.orders_sent + 1, orders_open=book.orders_open + 1,
                           known_ids={*book.known_ids, order.client_order_id}, recent=[*book.recent, (MORNING, likeness(order))],
                           **{"working_buys" if order.side == "buy" else "working_sells": working})
            chain.sent(order)
    return refused


def timed(act, orders: list[OrderRequest]) -> float:
    """Seconds an order."""
    start = time.perf_counter()
    for order in orders:
        act(order)
    return (time.perf_counter() - start) / len(orders)


def measure() -> list[Row]:
    """Two rows for each size of book."""
    rows = []
    for positions in (4, 500):
        book, limits, instruments, orders = desk(positions)
        refused = agree(book, limits, instruments, orders[:BLOCK])
        if not 0 < refused < BLOCK:
            sys.exit("the orders should be some that pass and some that do not")
        chain = PreTrade(book, limits, instruments)
        few = orders[:4 if positions > 100 else BLOCK]

        def slowly(order: OrderRequest, of=(book, limits, instruments)) -> None:
            check_slowly(order, *of)

        ours: list[float] = []
        theirs: list[float] = []
        streams: list[float] = []
        for n in range(ROUNDS):
            block, stream = orders[n * BLOCK:(n + 1) * BLOCK], PreTrade(book, limits, instruments)

            def joins(order: OrderRequest, of=stream) -> None:
                if not of.check(order):
                    of.sent(order)

            ours.append(timed(chain.check, block))
            theirs.append(timed(slowly, few))
            streams.append(timed(joins, block))

        def form(x: float) -> str:
            return f"{x * 1e6:,.0f} µs"

        for what, mine in (("an order against a book", ours), ("a stream, each order joining the book,", streams)):
            ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
            rows.append(Row(f"pre-trade chain, {what} of {positions} positions", spread(mine, form),
                            f"everything added up anew: {spread(theirs, form)}", spread(ratios, lambda x: f"{x:,.0f}×"),
                            f"under {GOAL * 1e6:.0f} µs", statistics.median(mine) < GOAL))
    return rows


if __name__ == "__main__":
    print(table(measure()))
