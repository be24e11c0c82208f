"""Each fault of the venue, from the client's side, and what it did to the books: done, or not done."""
import json
import threading
import time
from typing import Any

import pytest
import requests
from venue_harness import RunningVenue, running_venue, wait_until
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import ClientConnection, connect

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def venue(tmp_path_factory):
    with running_venue(tmp_path_factory.mktemp("venue")) as running:
        yield running


@pytest.fixture(autouse=True)
def calm(venue):
    venue.mend()
    venue.quote("AAPL", "444.00", "444.10")


class Sent:
    """What became of a request: an answer, or the error that stood in its place."""

    def __init__(self, venue: RunningVenue, method: str, path: str, body: Any = None, timeout: float = 10) -> None:
        headers = {"APCA-API-KEY-ID": venue.key, "APCA-API-SECRET-KEY": venue.secret}
        began, self.error, self.answer = time.monotonic(), None, None
        try:
            self.answer = requests.request(method, venue.url + path, json=body, headers=headers, timeout=timeout)
        except requests.RequestException as e:
            self.error = e
        self.seconds = time.monotonic() - began

    @property
    def status(self) -> int | None:
        return None if self.answer is None else self.answer.status_code


def buy(venue: RunningVenue, name: str, timeout: float = 10, **more: Any) -> Sent:
    body = {"symbol": "AAPL", "qty": "10", "side": "buy", "type": "market", "time_in_force": "day", "client_order_id": name, **more}
    return Sent(venue, "POST", "/v2/orders", body, timeout)


def booked(venue: RunningVenue, name: str) -> str:
    """The status of an order in the books; empty where there is none."""
    found = venue.floor.order(name)
    return found.status if found else ""


ORDERS = {"method": "POST", "path": "/v2/orders", "next": 1}


@pytest.mark.parametrize(("when", "there"), [("before", ""), ("after", "filled")])
def test_a_time_out(venue, when, there):
    venue.faults({"kind": "timeout", "when": when, "seconds": 30, **ORDERS})
    sent = buy(venue, f"timeout.{when}", timeout=1)
    assert isinstance(sent.error, requests.Timeout) and booked(venue, f"timeout.{when}") == there
    again = buy(venue, f"timeout.{when}")  # the id makes asking again safe, and tells which it was
    assert again.status == (422 if there else 200) and booked(venue, f"timeout.{when}") == "filled"


@pytest.mark.parametrize(("when", "there"), [("before", ""), ("after", "filled")])
def test_a_held_connection_is_dropped_in_the_end(venue, when, there):
    venue.faults({"kind": "timeout", "when": when, "seconds": 0.5, **ORDERS})
    sent = buy(venue, f"held.{when}", timeout=20)
    assert isinstance(sent.error, requests.ConnectionError) and 0.4 < sent.seconds < 10 and booked(venue, f"held.{when}") == there


@pytest.mark.parametrize(("when", "there"), [("before", ""), ("after", "filled")])
def test_a_reset(venue, when, there):
    venue.faults({"kind": "reset", "when": when, **ORDERS})
    sent = buy(venue, f"reset.{when}")
    assert isinstance(sent.error, requests.ConnectionError) and "reset" in str(sent.error).lower() and sent.seconds < 5
    assert booked(venue, f"reset.{when}") == there


@pytest.mark.parametrize(("when", "there", "status"), [("before", "", 500), ("after", "filled", 503)])
def test_a_server_error(venue, when, there, status):
    venue.faults({"kind": "error", "when": when, "status": status, **ORDERS})
    sent = buy(venue, f"error.{when}")
    assert sent.status == status and sent.answer.json()["code"] == status * 100_000 + 10_000 and booked(venue, f"error.{when}") == there


def test_too_many_requests(venue):
    venue.faults({"kind": "rate_limit", "seconds": 7, **ORDERS})
    sent = buy(venue, "many.1")
    assert (sent.status, sent.answer.headers["Retry-After"], sent.answer.json()["code"]) == (429, "7", 42910000)
    assert booked(venue, "many.1") == "" and buy(venue, "many.1").status == 200


def test_a_slow_answer_comes_after_the_act(venue):
    venue.faults({"kind": "slow", "when": "after", "seconds": 1.0, **ORDERS})
    found: list[Sent] = []
    thread = threading.Thread(target=lambda: found.append(buy(venue, "slow.after")))
    thread.start()
    wait_until(lambda: booked(venue, "slow.after") == "filled", "the order is filled while its answer waits")
    assert not found, "no answer yet"
    thread.join(20)
    assert found[0].status == 200 and found[0].seconds >= 1.0


def test_a_slow_cancel_loses_the_race_against_a_fill(venue):
    order = buy(venue, "race.1", type="limit", limit_price="440.00").answer.json()
    venue.faults({"kind": "slow", "when": "before", "seconds": 1.0, "method": "DELETE", "path": "/v2/orders/*", "next": 1})
    found: list[Sent] = []
    thread = threading.Thread(target=lambda: found.append(Sent(venue, "DELETE", f"/v2/orders/{order['id']}")))
    thread.start()
    wait_until(lambda: any(e["fault"] for e in venue.log() if e["method"] == "DELETE"), "the cancel is on its way")
    venue.quote("AAPL", "439.80", "439.90")
    thread.join(20)
    assert found[0].status == 422 and found[0].answer.json()["message"] == 'order is already in "filled" state'
    assert booked(venue, "race.1") == "filled"


def test_a_rejection_after_acceptance(venue):
    venue.faults({"kind": "reject", "next": 1})
    sent = buy(venue, "reject.1")
    assert sent.status == 200 and sent.answer.json()["status"] == "pending_new"
    order = Sent(venue, "GET", "/v2/orders:by_client_order_id?client_order_id=reject.1").answer.json()
    assert order["status"] == "rejected" == booked(venue, "reject.1") and order["failed_at"] and order["filled_qty"] == "0"
    assert buy(venue, "reject.2").status == 200 and booked(venue, "reject.2") == "filled", "only the next one"


def test_a_stale_account(venue):
    def told() -> tuple[Any, ...]:
        positions = Sent(venue, "GET", "/v2/positions").answer.json()
        return Sent(venue, "GET", "/v2/account").answer.json()["cash"], positions, Sent(venue, "GET", "/v2/positions/AAPL").answer.json()

    buy(venue, "stale.0")
    before = told()
    venue.faults({"kind": "stale"})
    buy(venue, "stale.1", qty="50")
    assert told() == before and booked(venue, "stale.1") == "filled", "it was done, and is not told"
    order = Sent(venue, "GET", "/v2/orders:by_client_order_id?client_order_id=stale.1").answer.json()
    assert order["status"] == "filled", "orders are told truly"
    venue.mend()
    assert told() != before


def test_how_often_and_where(venue):
    venue.faults({"kind": "error", "path": "/v2/clock", "every": 3, "name": "third"},
                 {"kind": "error", "path": "/v2/acc*", "status": 502, "probability": 0.5, "seed": 11, "name": "half"})
    assert [Sent(venue, "GET", "/v2/clock").status for _ in range(7)] == [200, 200, 503, 200, 200, 503, 200]
    first = [Sent(venue, "GET", "/v2/account").status for _ in range(30)]
    venue.mend()
    venue.faults({"kind": "error", "path": "/v2/acc*", "status": 502, "probability": 0.5, "seed": 11, "name": "half"})
    assert [Sent(venue, "GET", "/v2/account").status for _ in range(30)] == first and 5 < first.count(502) < 25, "the same again"
    assert venue.ask("GET", "/v2/orders")[0] == 200 and venue.faults()[0]["hit"] == first.count(502)
    refused = venue.ask("POST", "/venue/faults", {"kind": "timout"})
    assert refused[0] == 422 and "Did you mean 'timeout'?" in refused[1]["message"]


def test_the_log_says_what_was_injected(venue):
    last = max(e["number"] for e in venue.log())
    venue.faults({"kind": "error", "when": "after", "name": "lost answer", **ORDERS}, {"kind": "reset", "path": "/v2/clock", "next": 1})
    buy(venue, "log.1"), buy(venue, "log.2"), Sent(venue, "GET", "/v2/clock")
    seen = [(e["method"], e["path"], e["client_order_id"], e["fault"], e["done"], e["status"]) for e in venue.log(last)]
    assert seen == [("POST", "/v2/orders", "log.1", "lost answer", True, 503), ("POST", "/v2/orders", "log.2", "", True, 200),
                    ("GET", "/v2/clock", "", "reset", False, None)]
    assert venue.secret not in json.dumps(venue.log()) and venue.secret not in venue.printed.read_text()


def test_faults_from_a_file(tmp_path):
    file = tmp_path / "drill.yaml"
    file.write_text("faults:\n  first: {kind: error, status: 504, path: /v2/account, next: 1}\n")
    with running_venue(tmp_path, faults=file) as venue:
        assert [Sent(venue, "GET", "/v2/account").status for _ in range(2)] == [504, 200]


# ---------------------------------------------------------------- streams
class Heard:
    """What comes over a connection to the trade updates."""

    def __init__(self, venue: RunningVenue, socket: ClientConnection) -> None:
        self.socket = socket
        self.socket.send(json.dumps({"action": "authenticate", "data": {"key_id": venue.key, "secret_key": venue.secret}}))
        assert json.loads(self.socket.recv(10))["data"]["status"] == "authorized"
        self.socket.send(json.dumps({"action": "listen", "data": {"streams": ["trade_updates"]}}))
        assert json.loads(self.socket.recv(10))["data"] == {"streams": ["trade_updates"]}

    def next(self, timeout: float = 10) -> tuple[str, str]:
        """(client order id, event) of the next message; TimeoutError."""
        data = json.loads(self.socket.recv(timeout))["data"]
        return data["order"]["client_order_id"], data["event"]


@pytest.fixture
def heard(venue):
    with connect(venue.stream_url) as socket:
        yield Heard(venue, socket)


def limits(venue: RunningVenue, *names: str) -> None:
    """Orders that rest: one message each."""
    for name in names:
        assert buy(venue, name, type="limit", limit_price="100.00").status == 200


@pytest.mark.parametrize(("fault", "expected"), [
    ({"kind": "drop", "every": 2}, ["1", "3"]), ({"kind": "duplicate", "next": 1}, ["1", "1", "2", "3", "4"]),
    ({"kind": "reorder", "next": 1}, ["2", "1", "3", "4"]), ({"kind": "delay", "next": 1, "seconds": 0.5}, ["1", "2", "3", "4"])])
def test_messages(venue, heard, fault, expected):
    last = max(e["number"] for e in venue.log())
    venue.faults({"stream": "trade_updates", "name": "wire", **fault})
    began = time.monotonic()
    kind = fault["kind"]
    limits(venue, *(f"{kind}.{i}" for i in range(1, 5)))
    assert [heard.next()[0] for _ in expected] == [f"{kind}.{i}" for i in expected]
    with pytest.raises(TimeoutError):
        heard.next(0.3)
    assert kind != "delay" or time.monotonic() - began >= 0.5
    met = [(e["method"], e["path"], e["fault"], e["done"]) for e in venue.log(last) if e["fault"]]
    assert met == [("STREAM", "trade_updates", "wire", kind != "drop")] * (2 if kind == "drop" else 1)
    assert all(booked(venue, f"{kind}.{i}") == "accepted" for i in range(1, 5)), "the books know them all"


def test_the_last_message_is_not_held_back_for_ever(venue, heard):
    venue.faults({"stream": "trade_updates", "kind": "reorder", "next": 1, "seconds": 0.3})
    limits(venue, "alone.1")
    assert heard.next() == ("alone.1", "new")


def test_a_connection_that_is_cut(venue, heard):
    venue.faults({"stream": "trade_updates", "kind": "disconnect", "every": 2, "next": 1})
    limits(venue, "cut.1", "cut.2", "cut.3")
    assert heard.next() == ("cut.1", "new")
    with pytest.raises(ConnectionClosedError) as cut:
        heard.next()
    assert cut.value.rcvd.code == 1012
    with connect(venue.stream_url) as socket:  # a new connection works, and repeats nothing
        again = Heard(venue, socket)
        limits(venue, "cut.4")
        assert again.next() == ("cut.4", "new")
    missed = {o["client_order_id"] for o in Sent(venue, "GET", "/v2/orders?limit=500").answer.json()}
    assert {"cut.2", "cut.3"} <= missed, "what was missed is asked for"


def test_market_data_has_faults_of_its_own(venue, heard):
    with connect(venue.data_stream_url) as socket:
        def say(message: dict[str, Any] | None = None) -> dict[str, Any]:
            if message is not None:
                socket.send(json.dumps(message))
            return json.loads(socket.recv(10))[0]

        assert say() == {"T": "success", "msg": "connected"}
        assert say({"action": "subscribe", "quotes": ["AAPL"]})["code"] == 401
        assert say({"action": "auth", "key": venue.key, "secret": "guess"})["code"] == 402
        assert say({"action": "auth", "key": venue.key, "secret": venue.secret})["msg"] == "authenticated"
        assert say({"action": "subscribe", "quotes": ["AAPL"], "bars": ["*"]})["quotes"] == ["AAPL"]
        venue.faults({"stream": "market_data", "kind": "drop", "next": 1})
        venue.quote("AAPL", "443.00", "443.10")
        venue.quote("AAPL", "443.50", "443.60")
        limits(venue, "data.1")
        shown = say()
        assert (shown["T"], shown["bp"]) == ("q", 443.5) and shown["t"].endswith("Z") and heard.next() == ("data.1", "new")
        assert say({"action": "unsubscribe", "quotes": ["AAPL"]})["quotes"] == [] and say({"action": "dance"})["code"] == 400
