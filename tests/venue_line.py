"""A line from Alpaca's SDK straight into a venue's calls, without a socket: quick enough for thousands of runs, with its own faults.

The SDK is as it is installed; only the transport below its session is ours. What a fault does to a connection is what `requests` raises.
"""
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import requests
from requests.adapters import BaseAdapter
from trading_harness import Settings, instruments

from gpt_trader.core.calendar import get_calendar
from gpt_trader.core.clock import Clock
from gpt_trader.core.journal import Journal
from gpt_trader.core.store import Store
from gpt_trader.trading.alpaca import AlpacaBroker, AlpacaSettings
from gpt_trader.trading.execution import Executor
from gpt_trader.trading.inbox import Inbox
from gpt_trader.trading.orders import PROJECTION
from gpt_trader.trading.permit import Permit
from gpt_trader.trading.venue import Venue, call
from gpt_trader.trading.venuebooks import VenueBooks
from gpt_trader.trading.venuedoor import Keys
from gpt_trader.trading.venuefaults import Faults
from gpt_trader.trading.venuewire import Answer, Asked

URL = "http://127.0.0.1:9"  # nobody listens there: a request that goes round the line fails


class Line(BaseAdapter):
    """Carries requests to a venue. `before` and `after` are called at its two ends."""

    def __init__(self, venue: Callable[[], Venue], at: Callable[[str], None] = lambda where: None) -> None:
        super().__init__()
        self.venue, self.at = venue, at

    def send(self, request: requests.PreparedRequest, **_: Any) -> requests.Response:
        parts = urlsplit(str(request.url))
        body = json.loads(request.body, parse_float=Decimal) if request.body else {}
        asked, venue = Asked(str(request.method), parts.path, dict(parse_qsl(parts.query)), body), self.venue()
        self.at(f"before {asked.method} {asked.path}")
        met = venue.faults.request(asked.method, asked.path)
        kind = met.fault.kind if met is not None else ""
        if kind == "rate_limit":
            return self._response(request, Answer(429, {"code": 42910000, "message": "rate limit exceeded"}), {"Retry-After": "1"})
        if kind in ("timeout", "reset", "error") and met.fault.when == "before":
            return self._broken(request, met)
        answer = call(venue, asked)
        venue.hub.drain()
        self.at(f"after {asked.method} {asked.path}")
        if kind in ("timeout", "reset", "error"):
            return self._broken(request, met)
        return self._response(request, answer, {})

    def _broken(self, request: requests.PreparedRequest, met: Any) -> requests.Response:
        if met.fault.kind == "error":
            return self._response(request, Answer(met.fault.status, {"code": 50010000, "message": "internal server error occurred"}), {})
        raise requests.ReadTimeout("the answer never came") if met.fault.kind == "timeout" else requests.ConnectionError("reset by peer")

    def _response(self, request: requests.PreparedRequest, answer: Answer, headers: dict[str, str]) -> requests.Response:
        made = requests.Response()
        made.status_code, made.request, made.url = answer.status, request, str(request.url)
        made._content = b"" if answer.body is None else json.dumps(answer.body, default=str).encode()
        made.encoding = "utf-8"
        made.headers.update(headers)
        return made

    def close(self) -> None:
        pass


def connect(broker: AlpacaBroker, line: Line) -> AlpacaBroker:
    """Let a broker's SDK speak through the line."""
    broker.line._sdk._session.mount("http://", line)
    return broker


def open_venue(folder: Path, clock: Clock, faults: Faults) -> Venue:
    """A venue on the books in a folder; its market moves when the test says so."""
    books = VenueBooks(folder / "venue.db", instruments(), Settings(allow_shorting=True), clock)
    books.refresh()
    return Venue(books, None, Keys("key", "secret"), faults, 10**9)


@dataclass
class DeskAtVenue:
    """A desk's process, as far as it matters: its journal, its inbox, its broker, on the files of a folder."""

    journal: Journal
    broker: AlpacaBroker
    desk: Executor

    def close(self) -> None:
        self.journal.store.close()
        self.broker.close()


def open_desk(
    folder: Path,
    clock: Clock,
    venue: Callable[[], Venue],
    *,
    at: Callable[[str], None],  # told of each journal entry and each request, before and after it: where the process may die
    permit: Callable[[], Permit],
    checks: Sequence[Any] = (),
    tick: Callable[[], float],
    sleep: Callable[[float], None],
) -> DeskAtVenue:
    """A desk that begins, or begins again."""
    journal = Journal(Store(folder / "state.db"), clock, actor="desk", projections=(PROJECTION,))
    append = journal.append

    def append_or_die(*words: Any, **more: Any) -> Any:
        at(f"before {words[0]}")
        entry = append(*words, **more)
        at(f"after {words[0]}")
        return entry

    journal.append = append_or_die  # type: ignore[method-assign]
    settings = AlpacaSettings("key", "secret", url=URL, a_minute=10**6, patience=60)
    broker = connect(AlpacaBroker(settings, Inbox(folder / "inbox.db"), clock, get_calendar().session_of, tick=tick, sleep=sleep),
                     Line(venue, at))
    return DeskAtVenue(journal, broker, Executor(journal, broker, checks, permit=permit))
