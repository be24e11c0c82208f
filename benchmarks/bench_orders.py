"""What the record costs an order, and how quickly a halt holds.

*Cycle*: an order from the decision to the booked fill, through permit, checks, journal (durable commits), send and intake, against the
bare calls to the same broker (submit, then its events), order by order in turn. *Halt*: a desk sends without pause, from another thread;
the time from the call that removes the permit to the start of the last send after it. *Command*: from starting `gpt-trader halt` to the
permit's being gone.
"""
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from measure import Row, spread, table

from gpt_trader.core.clock import SimulatedClock
from gpt_trader.core.workspace import Workspace
from gpt_trader.risk.limits import limits_from
from gpt_trader.trading.broker import OrderRequest
from gpt_trader.trading.checks import LimitsCheck
from gpt_trader.trading.execution import Executor, TradingHalted
from gpt_trader.trading.floor import PaperFloor
from gpt_trader.trading.permit import grant, revoke

ROUNDS, BLOCK, HALTS = 20, 25, 20
ADDED_MS, HALT_MS = 1.0, 100.0
DAY, HERE = date(2013, 2, 28), Path(__file__).resolve().parent
GPT_TRADER = Path(sys.executable).with_name("gpt-trader")
EASY = "limits:\n  max_orders_per_session: 100000\n  max_open_orders: 1000\n  max_orders_per_minute: 100000\n  duplicate_seconds: 0\n"


def open_desk(folder: Path, name: str) -> tuple[Workspace, PaperFloor]:
    """A workspace with a permit and a market that is open and deep."""
    ws = Workspace.create(folder / name, SimulatedClock(datetime(2013, 2, 28, 15, tzinfo=UTC)))
    (ws.config_dir / "risk.yaml").write_text(EASY)
    ws = Workspace.open(folder / name)
    grant(ws.state_dir, actor="benchmark", reason="benchmark", at=ws.clock.now())
    floor = PaperFloor(ws.state_dir / "paper.db", ws.instruments, ws.config.app.broker.paper, ws.clock)
    floor.open_session(DAY)
    floor.quote("AAPL", "444.00", "444.10", 10**9, 10**9)
    return ws, floor


def order(n: int, side: str) -> OrderRequest:
    """One share at the market."""
    return OrderRequest(f"{side}-{n}", "AAPL", side, Decimal(1))


def cycles(folder: Path) -> tuple[list[float], list[float]]:
    """Milliseconds an order, blocks: through the executor, and bare. A purchase and its sale in turn, so that the book stays small."""
    ws, floor = open_desk(folder, "cycle")
    _, bare = open_desk(folder, "bare")
    check = LimitsCheck(limits_from(ws.config.risk), ws.instruments)
    desk, marks, seen, n = Executor(ws, floor, [check]), {"AAPL": Decimal("444.05")}, 0, 0
    desk.reconcile(DAY)
    floor.submit(order(0, "buy"))  # something to sell: exits need no history for VaR
    bare.submit(OrderRequest("stock", "AAPL", "buy", Decimal(10_000)))
    floor.submit(OrderRequest("stock", "AAPL", "buy", Decimal(10_000)))
    desk.pull()
    ours, theirs = [], []
    for round_ in range(ROUNDS + 2):
        took = [0.0, 0.0]
        for _ in range(BLOCK):
            n += 1
            for k in (0, 1) if n % 2 else (1, 0):
                start = time.perf_counter()
                if k == 0:
                    placed = desk.place(order(n, "sell"), session=DAY, marks=marks)
                    desk.pull()
                else:
                    bare.submit(order(n, "sell"))
                    seen = bare.events(seen)[-1].seq
                took[k] += time.perf_counter() - start
            if placed.status not in ("accepted", "filled"):
                sys.exit(f"order {n} was not taken: {placed}")
        if round_ >= 2:
            ours.append(took[0] / BLOCK * 1000)
            theirs.append(took[1] / BLOCK * 1000)
    filled = ws.store.rows("SELECT count(*) AS n FROM fills")[0]["n"]
    if filled < n:
        sys.exit(f"of {n} orders {filled} are booked")
    for f in (floor, bare):
        f.close()
    ws.close()
    return ours, theirs


class Watched:
    """A broker that notes when each order begins to leave."""

    def __init__(self, broker: PaperFloor) -> None:
        self.broker, self.left = broker, list[float]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.broker, name)

    def submit(self, request: OrderRequest) -> Any:
        """Note, and hand on."""
        self.left.append(time.perf_counter())
        return self.broker.submit(request)


def halts(folder: Path) -> list[float]:
    """Milliseconds from the call to the start of the last send after it; 0 when none began after it."""
    found = []
    for n in range(HALTS):
        ws, floor = open_desk(folder, f"halt-{n}")
        floor.submit(OrderRequest("stock", "AAPL", "buy", Decimal(10_000)))
        broker = Watched(floor)
        desk = Executor(ws, broker, [LimitsCheck(limits_from(ws.config.risk), ws.instruments)])
        desk.reconcile(DAY)
        stopped = threading.Event()

        def trade(desk: Executor = desk, stopped: threading.Event = stopped) -> None:
            try:
                for k in range(10**6):
                    desk.place(order(k, "sell"), session=DAY, marks={"AAPL": Decimal("444.05")})
            except TradingHalted:
                stopped.set()

        thread = threading.Thread(target=trade)
        thread.start()
        while len(broker.left) < 20 + n:
            time.sleep(0.0005)
        called = time.perf_counter()
        revoke(ws.state_dir)
        if not stopped.wait(10):
            sys.exit("the desk was not halted")
        thread.join()
        found.append(max(0.0, (broker.left[-1] - called) * 1000))
        floor.close()
        ws.close()
    return found


def commands(folder: Path) -> list[float]:
    """Milliseconds from starting the command to the permit's being gone."""
    ws, floor = open_desk(folder, "command")
    found, permit = [], ws.state_dir / "trading.permit"
    for _ in range(7):
        grant(ws.state_dir, actor="benchmark", reason="benchmark", at=ws.clock.now())
        start = time.perf_counter()
        command = [str(GPT_TRADER), "halt", "--workspace", str(ws.root)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while permit.exists():
            time.sleep(0.001)
        found.append((time.perf_counter() - start) * 1000)
        process.wait(60)
    floor.close()
    ws.close()
    return found


def measure() -> list[Row]:
    """Cycle, halt, command."""
    with tempfile.TemporaryDirectory(dir=HERE, prefix=".bench-") as name:
        folder = Path(name)
        ours, theirs = cycles(folder)
        stops, gone = halts(folder), commands(folder)
    added = [a - b for a, b in zip(ours, theirs, strict=True)]

    def form(x: float) -> str:
        return f"{x:.2f} ms"

    cost = statistics.median(added)
    return [Row(f"an order from decision to booked fill ({ROUNDS} rounds of {BLOCK})", spread(ours, form),
                f"the bare broker calls: {spread(theirs, form)}", f"{form(cost)} added", f"under {ADDED_MS:g} ms added", cost < ADDED_MS),
            Row(f"from the halt to the last order that leaves a running desk ({HALTS} halts)",
                f"{spread(stops, form)}, at most {form(max(stops))}", "", "", f"under {HALT_MS:g} ms", max(stops) < HALT_MS),
            Row("`gpt-trader halt`, until the permit is gone", spread(gone, lambda x: f"{x:.0f} ms"), "", "", "said", True)]


if __name__ == "__main__":
    print(table(measure()))
