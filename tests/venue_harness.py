"""A venue in a process of its own, for tests: start, drive, break, kill, start again.

    with running_venue(tmp_path) as venue:
        venue.quote("AAPL", "444.00", "444.10")
        client = TradingClient(venue.key, venue.secret, url_override=venue.url)

Nothing moves its market but what the test says, on a simulated clock that stands still, with the session open, unless the
options say otherwise.
"""
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from gpt_trader.core.clock import SimulatedClock, parse_utc
from gpt_trader.core.workspace import Workspace
from gpt_trader.trading.floor import PaperFloor
from gpt_trader.trading.ledger import trade
from gpt_trader.trading.permit import grant

AT = "2013-02-28T15:00:00Z"  # half an hour after the open of the last session of the embedded data
PATIENCE = 60  # seconds, for a process that starts on a busy machine


def wait_until(true: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    """What `true` returns once it is something, or fail with `what` it was to be."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.02)
    return found


class RunningVenue:
    """A `gpt-trader venue` process, and what a test does to it."""

    key, secret = "PKTESTTESTTESTTEST00", "a-secret-that-only-this-test-knows-00000"

    def __init__(self, folder: Path, options: tuple[str, ...]) -> None:
        self.folder, self.options, self.port = folder, options, 0
        self.root, self.db, self.printed = folder / "venue-desk", folder / "venue.db", folder / "venue.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process and wait until it answers; the port stays the same from the second time on."""
        program = [str(Path(sys.executable).with_name("gpt-trader")), "venue", "--workspace", str(self.root), "--db", str(self.db),
                   "--port", str(self.port), "--key", "env:VENUE_KEY", "--secret", "env:VENUE_SECRET", *self.options]
        with self.printed.open("w") as out:
            secrets = {"VENUE_KEY": self.key, "VENUE_SECRET": self.secret}
            self.process = subprocess.Popen(program, stdout=out, stderr=subprocess.STDOUT, cwd=self.folder, env={**os.environ, **secrets})

        def told() -> re.Match[str] | None:
            assert self.process is not None and self.process.poll() is None, self.printed.read_text()
            return re.search(r"http://127\.0\.0\.1:(\d+)", self.printed.read_text())

        self.port = int(wait_until(told, "the venue has printed its address", PATIENCE)[1])

    @property
    def url(self) -> str:
        """Base of the REST calls, trading and market data."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def stream_url(self) -> str:
        """The trade updates."""
        return f"ws://127.0.0.1:{self.port}/stream"

    @property
    def data_stream_url(self) -> str:
        """The market data."""
        return f"ws://127.0.0.1:{self.port}/v2/iex"

    def ask(self, method: str, path: str, body: Any = None, timeout: float = 30, secret: str | None = None) -> tuple[int, Any, Any]:
        """(status, parsed body, headers) of a plain request; an OSError where the connection breaks."""
        headers = {"APCA-API-KEY-ID": self.key, "APCA-API-SECRET-KEY": self.secret if secret is None else secret}
        request = Request(self.url + path, None if body is None else json.dumps(body, default=str).encode(), headers, method=method)
        try:
            with urlopen(request, timeout=timeout) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text else None, answer.headers
        except HTTPError as error:
            text = error.read()
            return error.code, json.loads(text) if text else None, error.headers

    def control(self, method: str, path: str, body: Any = None) -> Any:
        """A control call that must succeed: its body."""
        status, answer, _ = self.ask(method, f"/venue{path}", body, timeout=120)
        assert status == 200, answer
        return answer

    # ------------------------------------------------------------ the market
    def quote(self, symbol: str, bid: Any, ask: Any, bid_size: Any = None, ask_size: Any = None) -> None:
        """A quote, USD a share and shares; sizes are large unless given."""
        self.control("POST", "/quotes", {"symbol": symbol, "bid": str(bid), "ask": str(ask),
                                         **{k: str(v) for k, v in (("bid_size", bid_size), ("ask_size", ask_size)) if v is not None}})

    def open(self, session: str | None = None) -> None:
        """Open a session, by default the clock's."""
        self.control("POST", "/session", {"open": True, "session": session})

    def close(self) -> None:
        """Close the session."""
        self.control("POST", "/session", {"open": False})

    def advance(self, seconds: float) -> None:
        """Move the simulated clock on."""
        self.control("POST", "/clock", {"advance": seconds})

    def bust(self, execution_id: Any, reason: str = "clearly erroneous") -> None:
        """The exchange takes an execution back (its id as on the wire)."""
        self.control("POST", "/busts", {"execution_id": str(execution_id), "reason": reason})

    def correct(self, execution_id: Any, qty: Any, price: Any, reason: str = "a wrong print") -> None:
        """The exchange corrects an execution (its id as on the wire)."""
        self.control("POST", "/corrections", {"execution_id": str(execution_id), "qty": str(qty), "price": str(price), "reason": reason})

    # ------------------------------------------------------------ faults
    def faults(self, *faults: dict[str, Any]) -> list[dict[str, Any]]:
        """Put faults in force, each a mapping such as {'kind': 'timeout', 'when': 'after', 'next': 1}; all that are in force."""
        return self.control("POST", "/faults", {"faults": list(faults)}) if faults else self.control("GET", "/faults")

    def mend(self) -> None:
        """Take every fault out of force."""
        self.control("DELETE", "/faults")

    def log(self, after: int = 0) -> list[dict[str, Any]]:
        """The requests so far, without the control calls."""
        return [e for e in self.control("GET", f"/log?after={after}") if not e["path"].startswith("/venue")]

    # ------------------------------------------------------------ the books, by file
    @cached_property
    def floor(self) -> PaperFloor:
        """The venue's books, opened by this process too: what is true, whatever the wire says."""
        with Workspace.open(self.root) as ws:
            return PaperFloor(self.db, ws.instruments, ws.config.app.broker.paper, SimulatedClock(parse_utc(AT)))

    def transfer(self, symbol: str, shares: Any, price: Any, cash: Any = 0) -> None:
        """Shares (bought or sold at `price` USD) and cash that come to the account, or leave it, with no event: no list tells of them."""
        quantity, floor = Decimal(shares), self.floor
        with floor.store.transaction() as db:
            floor._set_basis(symbol, trade(floor._basis(symbol), quantity, quantity * Decimal(price)))
            db.conn.execute("UPDATE account SET cash = ?", [str(floor.account().cash + Decimal(cash))])

    # ------------------------------------------------------------ life and death
    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def restart(self) -> None:
        """Start it again after a kill or a stop."""
        assert self.process is not None and self.process.poll() is not None, "it runs"
        self.start()

    def stop(self) -> int:
        """SIGTERM; its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:  # the test fails, and nothing of it stays
            self.kill()
            raise


@contextlib.contextmanager
def running_venue(
    folder: Path,  # of the workspace, the books and the log
    *,
    source: str = "none",  # 'history' lets the market move by itself
    clock: str = "simulated",  # or 'machine'
    at: str = AT,  # where a simulated clock starts
    speed: float = 0,  # of a simulated clock
    limit: int = 100_000,  # requests a minute; Alpaca's own is 200
    faults: Path | None = None,  # a YAML file
    opened: bool = True,  # open a session at once, where nothing else does
    config: str = "",  # the workspace's config.yaml
) -> Iterator[RunningVenue]:
    """A venue, started and stopped again."""
    stands = ["--at", at, "--speed", str(speed)] if clock == "simulated" else []
    options = ["--source", source, "--clock", clock, "--limit", str(limit), *stands, *(["--faults", str(faults)] if faults else [])]
    venue = RunningVenue(folder, tuple(options))
    with Workspace.create(venue.root) as ws:
        if config:
            (ws.config_dir / "config.yaml").write_text(config)
    venue.start()
    try:
        if opened and source == "none":
            venue.open()
        yield venue
    finally:
        if "floor" in venue.__dict__:
            venue.floor.close()
        if venue.process is not None and venue.process.poll() is None:
            venue.stop()


_DESK = """
broker:
  kind: alpaca
  backup: {backup}
  alpaca: {{key: env:VENUE_KEY, secret: env:VENUE_SECRET, url: '{url}', timeout_seconds: 1}}
"""


def desk_at(
    venue: RunningVenue,
    root: Path,
    data: Path | None = None,  # a workspace to copy, such as the fixture `data_desk`; None: a new one, without market data
    backup: str = "null",  # of broker.backup
    more: str = "",  # further lines of config.yaml
) -> Path:
    """A desk whose broker is the venue, permitted to trade, its clock where the venue's starts."""
    ws = Workspace.create(root, SimulatedClock(parse_utc(AT))) if data is None else Workspace.open(shutil.copytree(data, root))
    with ws:
        ws.clock.set(parse_utc(AT))
        (ws.config_dir / "config.yaml").write_text(_DESK.format(url=venue.url, backup=backup) + more)
        grant(ws.state_dir, actor="test", reason="to be rehearsed", at=ws.clock.now())
    return root


def fills(floor: PaperFloor) -> list[tuple[str, Decimal, Decimal]]:
    """(client order id, shares, price) of every fill in the books, in order."""
    return [(e.client_order_id, e.quantity, e.price) for e in floor.events() if e.kind == "fill" and e.quantity and e.price]
