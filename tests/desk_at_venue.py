"""A desk that sends small orders without end, for tests that stop it: `python desk_at_venue.py ROOT`.

Prints each order's id when it is taken, and HALTED once it is not allowed to send any more; goes on trying, so that a permit which comes
back would show.
"""
import sys
import time
from decimal import Decimal
from pathlib import Path

from gpt_trader.core.workspace import Workspace
from gpt_trader.trading.broker import BrokerError, OrderRequest
from gpt_trader.trading.brokers import open_broker
from gpt_trader.trading.execution import Executor, TradingHalted


def main(root: Path) -> None:
    """Send until killed."""
    with Workspace.open(root) as ws:
        desk = Executor(ws, open_broker(ws))
        session, n = ws.calendar.session_of(ws.clock.now()), 0
        desk.reconcile(session)
        while True:
            n += 1
            name = f"loop-{n}"
            try:
                placed = desk.place(OrderRequest(name, "AAPL", "buy", Decimal(1), "limit", Decimal("400.00")), session=session)
                print(name, placed.status, time.time(), flush=True)
            except TradingHalted:
                print("HALTED", time.time(), flush=True)
            except BrokerError as e:
                print("ERROR", e, flush=True)
            time.sleep(0.005)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
