"""Runs replays in child processes that a test may kill, and lets them die at chosen points. Not a test by itself.

The process imports everything once and then forks a child for each line that it reads: `<root> <sessions> <point>`. It answers with the
child's pid and, when the child has ended, with its exit code. A point is `-` (no fault) or `<where>:<n>`: the child leaves with `os._exit`
right after the n-th
  append    entry that our journal has appended (the commit of the transaction around it may still be ahead)
  commit    transaction that our journal's store has committed
  submit, on_bars, on_actions    call of the broker that has been answered, so after its commit and before ours
"""
import os
import sys
import traceback
from datetime import date
from pathlib import Path

import scipy.special  # noqa: F401  what the first session would import

from gpt_trader.core.calendar import get_calendar
from gpt_trader.core.config import load_config
from gpt_trader.core.journal import Journal, installed_projections
from gpt_trader.core.store import Store
from gpt_trader.core.workspace import Workspace
from gpt_trader.live import backtest, replay  # noqa: F401  the modules, imported once
from gpt_trader.trading.paper import PaperBroker

DIED = 77  # the exit code of a child that left at its point


def _leave_after(owner, name, n, only=lambda *a: True):
    real, seen = getattr(owner, name), [0]

    def wrapped(self, *args, **kwargs):
        answer = real(self, *args, **kwargs)
        if only(self):
            seen[0] += 1
            if seen[0] == n:
                os._exit(DIED)
        return answer

    setattr(owner, name, wrapped)


class _Commits:
    """A connection that leaves after its n-th COMMIT."""

    def __init__(self, real, n):
        self._real, self._left = real, n

    def __getattr__(self, name):
        return getattr(self._real, name)

    def execute(self, sql, *args):
        answer = self._real.execute(sql, *args)
        if sql == "COMMIT":
            self._left -= 1
            if not self._left:
                os._exit(DIED)
        return answer


def run(root, sessions, point):
    where, _, n = point.partition(":")
    if where == "append":
        _leave_after(Journal, "append", int(n))
    elif where in ("submit", "on_bars", "on_actions"):
        _leave_after(PaperBroker, where, int(n))
    with Workspace.open(root) as ws:
        assert isinstance(ws.store, Store)
        if where == "commit":
            assert ws.journal.head().seq  # opened before the count begins
            ws.store.db.conn = _Commits(ws.store.db.conn, int(n))

        def note(session: date) -> None:
            with open(Path(root) / "after_session.txt", "a") as f:
                f.write(f"{session}\n")

        replay.replay(ws, sessions, note)


def main():
    installed_projections(), get_calendar(), load_config(None)  # made once, before the first fork
    print("ready", flush=True)
    for line in sys.stdin:
        root, sessions, point = line.split()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                run(root, int(sessions), point)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
