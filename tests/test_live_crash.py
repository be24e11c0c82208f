"""Kill the desk at any moment: nothing is lost, nothing is done twice, and it ends where an uninterrupted desk ends."""
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpt_trader.core.clock import SimulatedClock, parse_utc
from gpt_trader.core.workspace import Workspace
from gpt_trader.dataflow.ingestion import ingest
from gpt_trader.dataflow.providers import EmbeddedProvider
from gpt_trader.trading.paper import PaperBroker
from gpt_trader.trading.permit import grant

HERE = Path(__file__).parent
DIED = 77
SOAK = os.environ.get("GPT_TRADER_SOAK") == "1"


class Runner:
    """Talks to `desk_process.py`."""

    def __init__(self):
        env = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen([sys.executable, str(HERE / "desk_process.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=env)
        assert self.process.stdout.readline() == "ready\n"

    def start(self, root, sessions, point="-"):
        self.process.stdin.write(f"{root} {sessions} {point}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def code(self):
        return int(self.process.stdout.readline())

    def run(self, root, sessions, point="-"):
        self.start(root, sessions, point)
        return self.code()

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)


@pytest.fixture(scope="module")
def runner():
    runner = Runner()
    yield runner
    runner.close()


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A workspace with the embedded history and a permit, and no session yet."""
    root = tmp_path_factory.mktemp("desk") / "template"
    with Workspace.create(root, SimulatedClock(parse_utc("2013-01-01T00:00:00Z"))) as ws:
        ingest(ws, EmbeddedProvider(), ["AAPL", "GOOG", "IBM", "MSFT"])
        grant(ws.state_dir, actor="test", reason="to be killed", at=ws.clock.now())
    return root


def fresh(template, tmp_path, name="desk"):
    return Path(shutil.copytree(template, tmp_path / name))


def outcome(root):
    """Everything that must not depend on how often the desk was killed; and the checks that must hold at any time."""
    with Workspace.open(root) as ws:
        verified = ws.journal.verify()
        assert verified.ok, verified.problem
        assert ws.journal.check_projections() == []
        broker = PaperBroker(ws, ws.instruments, ws.config.app.broker.paper, ws.clock)
        rows = ws.store.rows
        state = {
            "orders": rows("SELECT client_order_id, session, symbol, side, quantity, status, filled_quantity, average_price, fees, reason "
                           "FROM orders ORDER BY client_order_id"),
            "fills": rows("SELECT execution_id, client_order_id, session, at, quantity, price, fee, cash, realised FROM fills "
                          "ORDER BY execution_id"),
            "positions": rows("SELECT symbol, quantity, cost, realised, fees, dividends FROM positions ORDER BY symbol"),
            "cash": rows("SELECT reference, kind, amount FROM cash ORDER BY reference"),
            "actions": rows("SELECT execution_id, session, quantity, cash FROM corporate_actions ORDER BY execution_id"),
            "sessions": [{k: v for k, v in r.items() if not k.endswith("_seq")} for r in rows("SELECT * FROM sessions ORDER BY session")],
            "metrics": ws.telemetry.rows("SELECT name, labels, at, session, value, n, low, high FROM metrics ORDER BY name, labels, at"),
        }
        # our books and the broker's are the same, order for order
        theirs = {order["client_order_id"]: order for order in broker.store.rows("SELECT * FROM orders")}
        ours = {row["client_order_id"]: row for row in state["orders"] if row["status"] != "refused"}
        assert set(theirs) == set(ours)
        agreed = ("status", "filled_quantity", "symbol", "side", "quantity")
        assert all(theirs[i][key] == row[key] for i, row in ours.items() for key in agreed)
        held = {symbol: str(p.quantity) for symbol, p in broker.positions().items()}
        assert held == {row["symbol"]: row["quantity"] for row in state["positions"] if row["quantity"] != "0"}
        assert str(broker.account().cash) == rows("SELECT balance FROM cash ORDER BY seq DESC LIMIT 1")[0]["balance"]
        executions = [e.execution_id for e in broker.events() if e.kind == "fill"]
        assert sorted(executions) == [row["execution_id"] for row in state["fills"]] and len(set(executions)) == len(executions)
        broker.store.close()
        return state


@pytest.fixture(scope="module")
def uninterrupted(template, runner, tmp_path_factory):
    """By number of sessions: what an uninterrupted run ends with, and how long it took in seconds."""
    known = {}

    def run(sessions):
        if sessions not in known:
            root = fresh(template, tmp_path_factory.mktemp("whole"))
            began = time.perf_counter()
            assert runner.run(root, sessions) == 0
            known[sessions] = outcome(root), time.perf_counter() - began, root
        return known[sessions]

    return run


def sessions_done(root):
    """How many sessions the desk had told us of."""
    told = root / "after_session.txt"
    return len(set(told.read_text().split())) if told.exists() else 0


def kill_at_random(runner, root, sessions, kills, seconds, rng, seen=None):
    """Kill a replay `kills` times at random moments, start it again each time, and let it end; how many kills hit a running desk."""
    hits = 0
    for _ in range(kills):
        child = runner.start(root, sessions)
        time.sleep(rng.uniform(0, seconds))
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            pass
        code = runner.code()
        assert code in (0, -signal.SIGKILL)
        hits += code != 0
        if code and seen is not None:
            seen.append(sessions_done(root))
        if code == 0:
            break
    assert runner.run(root, sessions) == 0
    return hits


def check_callbacks(root):
    """`after_session` was called for each session, in order, at least once."""
    called = (root / "after_session.txt").read_text().split()
    with Workspace.open(root) as ws:
        sessions = [row["session"] for row in ws.store.rows("SELECT session FROM sessions ORDER BY session")]
    assert called == sorted(called) and list(dict.fromkeys(called)) == sessions


def test_kill_at_random_moments(template, runner, uninterrupted, tmp_path):
    expected, seconds, _ = uninterrupted(6)
    root = fresh(template, tmp_path)
    hits = kill_at_random(runner, root, 6, 3, seconds / 2, random.Random(1))
    assert hits >= 1, "no kill hit the desk: the test has tested nothing"
    assert outcome(root) == expected
    check_callbacks(root)


@pytest.mark.parametrize("point", ["submit:2", "on_bars:2", "on_actions:2", "append:4", "commit:6"])
def test_die_between_the_brokers_commit_and_ours(template, runner, uninterrupted, tmp_path, point):
    expected, _, _ = uninterrupted(4)
    root = fresh(template, tmp_path)
    assert runner.run(root, 4, point) == DIED
    assert runner.run(root, 4) == 0
    assert outcome(root) == expected
    check_callbacks(root)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["append", "commit"])
def test_die_after_every_single_entry_and_commit(template, runner, uninterrupted, tmp_path, where):
    """Every step of two sessions, each in a workspace of its own: die right after it, start again, and end as if nothing had been."""
    expected, _, whole = uninterrupted(2)
    with Workspace.open(whole) as ws:
        entries = ws.journal.head().seq - 1  # all but the workspace's own
    for n in range(1, 10 * entries):
        root = fresh(template, tmp_path, f"desk{n}")
        code = runner.run(root, 2, f"{where}:{n}")
        if code == 0:
            break
        assert code == DIED and runner.run(root, 2) == 0
        assert outcome(root) == expected, f"died after {where} {n}"
        shutil.rmtree(root)
    assert code == 0 and n > entries / 2, "the replay ended before it could die often enough"


@pytest.mark.slow
def test_kill_again_and_again_over_ten_sessions(template, runner, uninterrupted, tmp_path):
    expected, seconds, _ = uninterrupted(10)
    root = fresh(template, tmp_path)
    hits = kill_at_random(runner, root, 10, 10, seconds / 3, random.Random(2))
    assert hits >= 3
    assert outcome(root) == expected
    check_callbacks(root)


@pytest.mark.soak
@pytest.mark.skipif(not SOAK, reason="set GPT_TRADER_SOAK=1: a hundred kills take minutes")
def test_a_hundred_kills_at_random_moments(template, runner, uninterrupted, tmp_path):
    expected, seconds, _ = uninterrupted(40)
    rng, hits, turn, seen = random.Random(3), 0, 0, []
    while hits < 100:
        root = fresh(template, tmp_path, f"desk{turn}")
        hits += kill_at_random(runner, root, 40, min(8, 100 - hits), seconds / 2, rng, seen)
        assert outcome(root) == expected
        check_callbacks(root)
        shutil.rmtree(root)
        turn += 1
    assert len(set(seen)) >= 20, f"the kills hit only the sessions {sorted(set(seen))}"
    print(f"{hits} kills over {turn} replays, in {len(set(seen))} different sessions of 40")
