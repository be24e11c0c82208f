"""`gpt-trader venue`: what it says, where it listens, how it stops, and what it answers to mistakes."""
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from venue_harness import AT, running_venue, wait_until

from gpt_trader.core.workspace import Workspace

PROGRAM = str(Path(sys.executable).with_name("gpt-trader"))


def told(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *words], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_help(tmp_path):
    done = told("venue", "--help", cwd=tmp_path)
    assert done.returncode == 0 and "SIMULATED" in done.stdout and "--faults" in done.stdout


@pytest.mark.slow
def test_it_says_where_it_is_and_that_it_is_simulated_and_stops_cleanly(tmp_path):
    with running_venue(tmp_path) as venue:
        said = venue.printed.read_text()
        assert f"http://127.0.0.1:{venue.port} and is SIMULATED" in said and venue.secret not in said and "Traceback" not in said
        assert {c.laddr.ip for c in psutil.Process(venue.process.pid).net_connections("tcp") if c.status == "LISTEN"} == {"127.0.0.1"}
        assert venue.ask("GET", "/v2/account")[2]["X-Simulated"] == "gpt-trader venue" and venue.control("GET", "")["simulated"] is True
        venue.faults({"kind": "timeout", "path": "/v2/clock", "seconds": 600})
        with pytest.raises(OSError):
            venue.ask("GET", "/v2/clock", timeout=1)
        taken = told("venue", "--workspace", str(venue.root), "--db", str(tmp_path / "other.db"), "--port", str(venue.port), cwd=tmp_path)
        assert taken.returncode == 74 and taken.stderr.count("\n") == 1 and f"Port {venue.port} cannot be listened on" in taken.stderr
        same = told("venue", "--workspace", str(venue.root), "--db", str(venue.db), cwd=tmp_path)
        assert same.returncode == 74 and same.stderr.count("\n") == 1 and "Another venue serves these books" in same.stderr
        assert venue.stop() == 0, "although a fault held a connection"
        assert "Traceback" not in venue.printed.read_text()


@pytest.mark.slow
def test_fresh_keys_are_printed_once_and_open_it(tmp_path):
    Workspace.create(tmp_path / "desk").close()
    words = ["venue", "--workspace", str(tmp_path / "desk"), "--clock", "simulated", "--source", "none", "--at", AT]
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen([PROGRAM, *words], stdout=out, stderr=subprocess.STDOUT)
    try:
        said = r"(http://\S+).*key: (\S+)\s+secret: (\S+)"
        found = wait_until(lambda: re.search(said, (tmp_path / "out").read_text(), re.S), "it is there", 60)
        import requests

        headers = {"APCA-API-KEY-ID": found[2], "APCA-API-SECRET-KEY": found[3]}
        assert requests.get(f"{found[1]}/v2/account", headers=headers, timeout=10).status_code == 200
        assert requests.get(f"{found[1]}/v2/account", timeout=10).status_code == 401
        assert (tmp_path / "desk" / ".gpt-trader" / "venue.db").exists(), "its books are in the workspace's state"
    finally:
        process.terminate()
        assert process.wait(30) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("words", "code", "sentence"), [
    (("--key", "env:NO_SUCH"), 64, "A key and a secret belong together"),
    (("--key", "env:NO_SUCH", "--secret", "env:NO_SUCH"), 78, "NO_SUCH is not set"),
    (("--key", "PKLITERAL", "--secret", "literal"), 78, "reference"), (("--clock", "simulated", "--source", "none"), 64, "--at"),
    (("--faults", "nowhere.yaml"), 64, "no such file"), (("--speed", "-1"), 64, "--speed")])
def test_mistakes_get_one_sentence(tmp_path, words, code, sentence):
    Workspace.create(tmp_path / "desk").close()
    done = told("venue", "--workspace", str(tmp_path / "desk"), *words, cwd=tmp_path)
    assert done.returncode == code and sentence in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.slow
def test_books_that_end_in_the_future_need_a_simulated_clock(tmp_path):
    with running_venue(tmp_path, at="2100-01-04T15:00:00Z") as venue:
        venue.quote("AAPL", "444.00", "444.10")
    done = told("venue", "--workspace", str(venue.root), "--db", str(venue.db), "--source", "none", cwd=tmp_path)
    assert done.returncode == 64 and "still to come" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_market_on_a_fast_clock_moves_by_itself(tmp_path):
    with running_venue(tmp_path, source="history", at="2013-02-28T14:29:00Z", speed=600) as venue:
        def bid() -> float | None:
            status, answer, _ = venue.ask("GET", "/v2/stocks/AAPL/quotes/latest")
            return answer["quote"]["bp"] if status == 200 else None

        first = wait_until(bid, "the market has opened")
        assert venue.control("GET", "")["open"] and 441.0 < first < 448.0
        wait_until(lambda: bid() != first, "it moves")
        before = venue.control("GET", "")["clock"]["now"]
        wait_until(lambda: venue.control("GET", "")["clock"]["now"] > before, "its clock goes on")
