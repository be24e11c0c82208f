"""kill -9 while orders stream in: after each restart nothing is lost, and nothing is doubled."""
import os
import random
import threading
import time
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
import requests
from venue_harness import RunningVenue, running_venue

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
KILLS = 12 if os.environ.get("GPT_TRADER_SOAK") == "1" else 3


class Desk:
    """A client that sends orders one after another, and after a lost answer asks before it sends again."""

    def __init__(self, venue: RunningVenue, name: str, seed: int) -> None:
        self.venue, self.name, self.rng, self.stopping = venue, name, random.Random(seed), threading.Event()
        self.acknowledged: dict[str, str] = {}  # order id by client order id
        self.cancelled: set[str] = set()
        self.lost_answers = self.found_there = 0
        self.thread = threading.Thread(target=self.run)

    def call(self, method: str, path: str, body: Any = None) -> requests.Response | None:
        """The answer; None where there was none."""
        headers = {"APCA-API-KEY-ID": self.venue.key, "APCA-API-SECRET-KEY": self.venue.secret}
        try:
            return requests.request(method, self.venue.url + path, json=body, headers=headers, timeout=5)
        except requests.RequestException:
            return None

    def settle(self, method: str, path: str, body: Any = None) -> requests.Response:
        """The answer, however long the venue is away."""
        while (answer := self.call(method, path, body)) is None:
            time.sleep(0.05)
        return answer

    def place(self, client_order_id: str, body: dict[str, Any]) -> None:
        """Until it is known to be there: an unanswered order is asked for, and sent again only where it is not."""
        while client_order_id not in self.acknowledged:
            answer = self.call("POST", "/v2/orders", {**body, "client_order_id": client_order_id})
            if answer is None:
                self.lost_answers += 1
                known = self.settle("GET", f"/v2/orders:by_client_order_id?client_order_id={client_order_id}")
                assert known.status_code in (200, 404), known.text
                if known.status_code == 404:
                    continue
                self.found_there, answer = self.found_there + 1, known
            assert answer.status_code == 200, answer.text
            self.acknowledged[client_order_id] = answer.json()["id"]

    def run(self) -> None:
        """Buy and rest in turn, cancel some of what rests."""
        number = 0
        while not self.stopping.is_set():
            number += 1
            rests = number % 3 == 0
            body = {"symbol": "AAPL", "side": "buy", "time_in_force": "gtc" if rests else "day", "qty": str(self.rng.randrange(1, 40)),
                    **({"type": "limit", "limit_price": "300.00"} if rests else {"type": "market"})}
            self.place(f"{self.name}.{number}", body)
            if rests and number % 2 == 0:
                order = self.acknowledged[f"{self.name}.{number}"]
                if self.settle("DELETE", f"/v2/orders/{order}").status_code in (204, 422):  # 422: by the cancel whose answer was lost
                    self.cancelled.add(f"{self.name}.{number}")


def check(venue: RunningVenue, desks: list[Desk]) -> None:
    """The books against what the clients know, and against themselves."""
    floor = venue.floor
    orders = {r["client_order_id"]: r for r in floor.store.rows("SELECT * FROM orders")}
    events = floor.events(0, 10**6)
    sent = {c: i for desk in desks for c, i in desk.acknowledged.items()}
    assert orders.keys() == sent.keys(), "each order that was acknowledged is there, and no other"
    accepted = Counter(e.client_order_id for e in events if e.kind == "accepted")
    assert set(accepted.values()) == {1} and accepted.keys() == orders.keys(), "each was taken once"
    assert len({e.execution_id for e in events}) == len(events) and [e.seq for e in events] == list(range(1, len(events) + 1))
    filled = Counter()
    for e in events:
        if e.kind == "fill":
            filled[e.client_order_id] += e.quantity
    assert all(Decimal(r["filled_quantity"]) == filled[c] <= Decimal(r["quantity"]) for c, r in orders.items())
    held = floor.positions()["AAPL"].quantity if floor.positions() else Decimal(0)
    assert held == sum(filled.values()) and floor.account().cash == sum(e.cash for e in events)
    assert all(orders[c]["status"] == "cancelled" for desk in desks for c in desk.cancelled)
    for c, i in sent.items():
        status, told, _ = venue.ask("GET", f"/v2/orders/{i}")
        assert status == 200 and told["client_order_id"] == c, "an id means the same order for ever"
        assert Decimal(told["filled_qty"]) == filled[c]


def test_kill_while_orders_stream_in(tmp_path):
    config = "broker: {paper: {initial_cash: 1_000_000_000}}\n"
    with running_venue(tmp_path, config=config) as venue:
        venue.quote("AAPL", "444.00", "444.10")
        rng, desks = random.Random(7), [Desk(venue, name, seed) for seed, name in enumerate(("ann", "bob"))]
        for desk in desks:
            desk.thread.start()
        try:
            for kill in range(KILLS):
                if kill % 2:  # a thin market, in which orders are filled in parts: the kill falls between two of them
                    venue.quote("AAPL", "444.00", "444.10", 20, 20)
                end = time.monotonic() + 1.0 + rng.random() * 1.5
                while time.monotonic() < end:
                    venue.quote("AAPL", "444.00", "444.10", 60, 60)
                venue.kill()
                venue.restart()
                assert venue.control("GET", "")["open"], "the session is still open"
        finally:
            for desk in desks:
                desk.stopping.set()
            for desk in desks:
                desk.thread.join(60)
        assert not any(desk.thread.is_alive() for desk in desks)
        assert sum(desk.lost_answers for desk in desks) >= KILLS, "the kills were felt"
        assert all(len(desk.acknowledged) >= 10 for desk in desks)
        check(venue, desks)


def test_a_restart_answers_as_before(tmp_path):
    with running_venue(tmp_path) as venue:
        venue.quote("AAPL", "444.00", "444.10", 500, 60)
        for i, body in enumerate(({"type": "market", "qty": "100"}, {"type": "limit", "qty": "5", "limit_price": "400.00"})):
            order = {"symbol": "AAPL", "side": "buy", "time_in_force": "gtc", "client_order_id": f"same.{i}", **body}
            assert venue.ask("POST", "/v2/orders", order)[0] == 200
        venue.bust(venue.ask("GET", "/v2/account/activities/FILL")[1][0]["id"].partition("::")[2])

        def everything() -> list[Any]:
            paths = ("account", "positions", "orders?status=all", "account/activities", "account/configurations", "clock",
                     "stocks/AAPL/quotes/latest")
            return [venue.ask("GET", f"/v2/{path}")[1] for path in paths]

        before = everything()
        venue.kill()
        venue.restart()
        assert everything() == before
        assert venue.stop() == 0
        venue.restart()
        assert everything() == before
