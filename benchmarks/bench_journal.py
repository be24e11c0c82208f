"""Order-journal appends against bare SQLite commits of the same payload, both fully durable, in turn in one run.

Ours is `Journal.append("order.created", …)`: hash chain, entry, and the row in the orders table that follows from it, in one commit. The
other is one INSERT of the same JSON in a transaction of its own, through the standard library alone. Both files are in the same folder, in
WAL mode with synchronous=FULL: each commit waits for the disk.
"""
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from measure import Row, spread, table

from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.journal import Journal, canonical
from gpt_trader.core.store import CHECKPOINT_PAGES, Store
from gpt_trader.trading.broker import OrderRequest, decimal_text

ROUNDS, BLOCK = 40, 50
WARM_UP = 200
GOAL = 0.5
HERE = Path(__file__).resolve().parent
Order = tuple[str, dict[str, Any]]  # client order id, body
Act = Callable[[str, dict[str, Any]], None]


def payloads(many: int) -> list[Order]:
    """Order bodies as the desk journals them, with their client order ids."""
    made = []
    for n in range(many):
        order = OrderRequest(f"20130301-{('AAPL', 'IBM', 'MSFT', 'GOOG')[n % 4]}-{n}", ("AAPL", "IBM", "MSFT", "GOOG")[n % 4],
                             ("buy", "sell")[n % 2], Decimal(100 + n % 900))
        made.append((order.client_order_id, {
            "broker": "paper", "broker_order_id": "", "symbol": order.symbol, "side": order.side, "quantity": decimal_text(order.quantity),
            "type": order.type, "limit_price": None, "time_in_force": order.time_in_force, "reason": "rebalance to target weight"}))
    return made


def fill_the_log(connection: sqlite3.Connection) -> None:
    """Grow the write-ahead log past its fold, so that both are written over from now on, as in a file that has lived for a while."""
    connection.execute("CREATE TABLE filler AS SELECT zeroblob(?) AS zeros", [CHECKPOINT_PAGES * 4096 * 2])
    connection.execute("DROP TABLE filler")


def bare(path: Path) -> Act:
    """One durable INSERT a call, through sqlite3 alone."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
    connection.execute("CREATE TABLE commits (seq INTEGER PRIMARY KEY, subject TEXT NOT NULL, body TEXT NOT NULL) STRICT")
    fill_the_log(connection)

    def commit(subject: str, body: dict[str, Any]) -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO commits (subject, body) VALUES (?, ?)", (subject, canonical(body)))
        connection.execute("COMMIT")

    return commit


def journalled(path: Path) -> tuple[Journal, Act]:
    """One journal entry with its projection a call."""
    journal = Journal(Store(path), SimulatedClock(datetime(2013, 3, 1, 21, tzinfo=UTC)), actor="benchmark")
    fill_the_log(journal.store.db.conn)

    def append(subject: str, body: dict[str, Any]) -> None:
        journal.append("order.created", body, subject=subject, session="2013-03-01")

    return journal, append


def side_by_side(acts: list[Act], block: list[Order]) -> list[float]:
    """Calls a second of each act, called turn by turn for each order, so that a noisy neighbour hits all alike."""
    took = [0.0] * len(acts)
    for n, (subject, body) in enumerate(block):
        for k in range(len(acts)) if n % 2 else reversed(range(len(acts))):
            start = time.perf_counter()
            acts[k](subject, body)
            took[k] += time.perf_counter() - start
    return [len(block) / seconds for seconds in took]


def filesystem(folder: Path) -> str:
    """What the folder stands on: on a file system in memory, waiting for the disk would cost nothing."""
    import psutil

    mounts = [p for p in psutil.disk_partitions(all=True) if folder.is_relative_to(p.mountpoint)]
    return max(mounts, key=lambda p: len(p.mountpoint)).fstype if mounts else "unknown"


def measure() -> list[Row]:
    """One row: the journal's rate against the bare one."""
    with tempfile.TemporaryDirectory(dir=HERE, prefix=".bench-") as folder:  # beside the code, which is on a disk; /tmp often is not
        orders = payloads(WARM_UP + ROUNDS * BLOCK)
        plain = bare(Path(folder) / "bare.db")
        journal, append = journalled(Path(folder) / "state.db")
        side_by_side([append, plain], orders[:WARM_UP])
        blocks = (orders[n:n + BLOCK] for n in range(WARM_UP, len(orders), BLOCK))
        ours, theirs = zip(*(side_by_side([append, plain], block) for block in blocks), strict=True)
        whole = journal.verify()
        if not whole.ok or whole.entries != len(orders):
            sys.exit(f"the journal does not hold what was appended: {whole}")
        on = filesystem(Path(folder))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]

    def form(x: float) -> str:
        return f"{x:,.0f}/s"

    return [Row(f"durable order-journal appends ({ROUNDS} rounds of {BLOCK}, on {on})", spread(ours, form),
                f"bare SQLite commits: {spread(theirs, form)}", spread(ratios, lambda x: f"{x:.2f}"), f"at least {GOAL}",
                statistics.median(ratios) >= GOAL)]


if __name__ == "__main__":
    print(table(measure()))
