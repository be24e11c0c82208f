"""The desk dies, at the worst moments and at random ones, and is started again: no order is lost, none is doubled."""
import json
import os
import random
import subprocess
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from trading_harness import Fatal, SmallDesk, real_bars

HARNESS = Path(__file__).with_name("trading_harness.py")
KILLS = 100 if os.environ.get("GPT_TRADER_SOAK") == "1" else 15


def die() -> None:
    raise Fatal


@pytest.fixture(scope="module")
def bars() -> dict[str, list[dict[str, Any]]]:
    return real_bars(date(2005, 2, 14), date(2005, 3, 4))


@pytest.fixture(scope="module")
def few(bars: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """The session before Apple's split and the one after it."""
    return {s: bars[s] for s in ("2005-02-25", "2005-02-28")}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, bars: Any, few: Any) -> dict[str, Any]:
    """What runs without a crash come to."""
    facts = {}
    for name, sessions in (("all", bars), ("few", few)):
        desk = SmallDesk(tmp_path_factory.mktemp(name), durable=False)
        desk.run(sessions)
        assert desk.problems() == []
        facts[name] = desk.facts()
        desk.close()
    return facts


def test_the_plan_is_worth_crashing(undisturbed: dict[str, Any], bars: Any) -> None:
    text = " ".join(undisturbed["all"]["orders"])
    assert all(f"'status': '{s}'" in text for s in ("filled", "cancelled", "expired", "rejected")), "an order never ends in one of the ways"
    assert any(k == "split" for _, k, *_ in undisturbed["all"]["broker"]) and len(bars) == 14


@pytest.mark.parametrize("when", ["before", "after"])
def test_dying_around_each_commit_of_the_broker(tmp_path: Path, few: Any, undisturbed: dict[str, Any], when: str) -> None:
    """Exhaustive, in one process: for every change at the broker, the desk is dropped there, opened anew and finished."""
    number, died = 0, True
    while died:
        number += 1
        desk = SmallDesk(tmp_path / str(number), durable=False)
        try:
            desk.run(few, number, when, die)
            died = False
        except Fatal:
            desk.close()
            desk = SmallDesk(tmp_path / str(number), durable=False)
            desk.run(few)
        assert desk.problems() == [] and desk.facts() == undisturbed["few"], f"died {when} change {number}"
        desk.close()
    assert number > 12


@pytest.mark.parametrize("when", ["before", "after"])
def test_dying_around_each_commit_of_ours(
    tmp_path: Path, few: Any, undisturbed: dict[str, Any], when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same for every commit of the journal: the transaction is undone (before), or done and nothing after it (after)."""
    from gpt_trader.core.journal import Journal

    number, died, honest = 0, True, Journal.append
    while died:
        number += 1
        left = number

        def append(self: Journal, *args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if self.store.path == ":memory:":
                return honest(self, *args, **kwargs)
            left -= 1
            if left == 0 and when == "before":
                raise Fatal
            entry = honest(self, *args, **kwargs)
            if left == 0 and not self.store.db.conn.in_transaction:
                raise Fatal
            return entry

        monkeypatch.setattr(Journal, "append", append)
        desk = SmallDesk(tmp_path / str(number), durable=False)
        try:
            desk.run(few)
            died = left <= 0  # inside a longer transaction an entry is no commit of its own: nobody dies there
        except Fatal:
            monkeypatch.setattr(Journal, "append", honest)
            desk.close()
            desk = SmallDesk(tmp_path / str(number), durable=False)
            desk.run(few)
        monkeypatch.setattr(Journal, "append", honest)
        assert desk.problems() == [] and desk.facts() == undisturbed["few"], f"died {when} entry {number}"
        desk.close()
    assert number > 25


def run_until_done(root: Path, source: Path, kills: int, rng: random.Random, longest: float) -> int:
    """Start the desk, kill it at a random moment, `kills` times; then let it finish. How many were killed before they had finished."""
    struck = 0
    for _ in range(kills):
        process = subprocess.Popen([sys.executable, str(HARNESS), str(root), str(source)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, longest))
        process.kill()
        rest = process.stdout.read()
        process.wait()
        process.stdout.close()
        if rest.endswith("done\n"):
            break
        struck += 1
    subprocess.run([sys.executable, str(HARNESS), str(root), str(source)], check=True, capture_output=True, timeout=120)
    return struck


def check(root: Path, expected: dict[str, Any]) -> None:
    desk = SmallDesk(root)
    assert desk.problems() == [] and desk.facts() == expected
    desk.close()


def test_processes_killed_at_random(tmp_path: Path, bars: Any, undisturbed: dict[str, Any]) -> None:
    source = tmp_path / "bars.json"
    source.write_text(json.dumps(bars))
    assert run_until_done(tmp_path / "desk", source, 2, random.Random(20050228), 0.1) >= 1
    check(tmp_path / "desk", undisturbed["all"])


def test_a_process_that_ends_between_the_brokers_commit_and_ours(tmp_path: Path, few: Any, undisturbed: dict[str, Any]) -> None:
    source = tmp_path / "bars.json"
    source.write_text(json.dumps(few))
    ended = subprocess.run([sys.executable, str(HARNESS), str(tmp_path / "desk"), str(source), "4", "after"], capture_output=True)
    assert ended.returncode == 9  # the third order was taken, and we never wrote that down
    subprocess.run([sys.executable, str(HARNESS), str(tmp_path / "desk"), str(source)], check=True, capture_output=True, timeout=120)
    check(tmp_path / "desk", undisturbed["few"])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_processes_killed_at_random(tmp_path: Path, bars: Any, undisturbed: dict[str, Any]) -> None:
    """At least KILLS kills that struck a running desk, over as many replays as it takes; each replay ends as if nothing had happened."""
    source, rng, struck, replay = tmp_path / "bars.json", random.Random(1), 0, 0
    source.write_text(json.dumps(bars))
    while struck < KILLS:
        replay += 1
        struck += run_until_done(tmp_path / str(replay), source, 10, rng, 0.15)
        check(tmp_path / str(replay), undisturbed["all"])
