"""A backup while the desk trades, the workspace deleted, restored: the record verifies, and trading ends as if nothing had been."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_live_crash import fresh, outcome, runner, template, uninterrupted  # noqa: F401  fixtures and checks

from gpt_trader.core.workspace import Workspace
from gpt_trader.ops.backup import create_backup
from gpt_trader.trading.permit import check, grant

GPT_TRADER = str(Path(sys.executable).with_name("gpt-trader"))
SESSIONS = 40
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([GPT_TRADER, *map(str, words)], capture_output=True, text=True, timeout=300)


def wait_for_sessions(root: Path, n: int) -> None:
    deadline = time.monotonic() + 120
    while len((root / "after_session.txt").read_text().split() if (root / "after_session.txt").exists() else []) < n:
        assert time.monotonic() < deadline, "the replay does not get on"
        time.sleep(0.01)


def test_backup_during_a_replay(template, runner, uninterrupted, tmp_path):  # noqa: F811
    expected, _, _ = uninterrupted(SESSIONS)
    root, elsewhere = fresh(template, tmp_path), tmp_path / "elsewhere"
    child = runner.start(root, SESSIONS)
    wait_for_sessions(root, 3)
    with Workspace.open(root) as ws:
        create_backup(ws, elsewhere)
    os.kill(child, signal.SIGKILL)
    assert runner.code() == -signal.SIGKILL, "the replay had ended before the backup: nothing was tested"
    with Workspace.open(root) as ws:
        last_seen = ws.journal.head().seq
    shutil.rmtree(root)

    answer = run("--workspace", root, "restore-backup", "--date", "2013-03-02", "--source", elsewhere, "--execute", "--json")
    assert answer.returncode == 0, answer.stdout + answer.stderr
    restored = json.loads(answer.stdout)
    assert restored["verification"] == "verified" and restored["figures"]["loss"]
    with Workspace.open(root) as ws:
        verified = ws.journal.verify()
        assert verified.ok and ws.journal.check_projections() == []
        before = restored["figures"]["entries"]
        assert 0 < before < last_seen and verified.entries >= before
        assert not check(ws.state_dir), "a restored desk does not trade before somebody says so"
        grant(ws.state_dir, actor="test", reason="restored", at=ws.clock.now())

    assert runner.run(root, SESSIONS) == 0
    assert outcome(root) == expected
    lost = last_seen - before
    print(f"backup at entry {before}, workspace gone at entry {last_seen}: {lost} entries lost; the next start made them again")
