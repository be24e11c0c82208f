"""The official SDK, unmodified, against a venue in a process of its own: what it parses, what it is refused, what its streams deliver."""
import threading
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from alpaca.common.exceptions import APIError
from alpaca.data.historical.stock import StockHistoricalDataClient
from alpaca.data.live.stock import StockDataStream
from alpaca.data.models import Bar, Quote, Snapshot, Trade
from alpaca.data.requests import (
    StockBarsRequest,
    StockLatestBarRequest,
    StockLatestQuoteRequest,
    StockLatestTradeRequest,
    StockQuotesRequest,
    StockSnapshotRequest,
    StockTradesRequest,
)
from alpaca.data.timeframe import TimeFrame, TimeFrameUnit
from alpaca.trading import models
from alpaca.trading.client import TradingClient
from alpaca.trading.enums import OrderClass, OrderSide, OrderStatus, OrderType, QueryOrderStatus, TimeInForce, TradeEvent
from alpaca.trading.requests import (
    ClosePositionRequest,
    CreateWatchlistRequest,
    GetCalendarRequest,
    GetCorporateAnnouncementsRequest,
    GetOptionContractsRequest,
    GetOrderByIdRequest,
    GetOrdersRequest,
    GetPortfolioHistoryRequest,
    LimitOrderRequest,
    MarketOrderRequest,
    ReplaceOrderRequest,
    StopLimitOrderRequest,
    StopLossRequest,
    StopOrderRequest,
    TakeProfitRequest,
    TrailingStopOrderRequest,
    UpdateWatchlistRequest,
)
from alpaca.trading.stream import TradingStream
from venue_harness import RunningVenue, fills, running_venue, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture(scope="module")
def venue(tmp_path_factory):
    with running_venue(tmp_path_factory.mktemp("venue")) as running:
        running.quote("AAPL", "444.00", "444.10")
        yield running


@pytest.fixture(scope="module")
def client(venue) -> TradingClient:
    return TradingClient(venue.key, venue.secret, url_override=venue.url)


@pytest.fixture(autouse=True)
def calm(venue, client):
    """Each test begins with no order at work, no fault, and a deep market."""
    venue.mend()
    client.cancel_orders()
    venue.quote("AAPL", "444.00", "444.10")


def order(qty: Any = 10, side: OrderSide = OrderSide.BUY, tif: TimeInForce = TimeInForce.DAY, cls: type = MarketOrderRequest, **more: Any):
    return cls(symbol="AAPL", qty=qty, side=side, time_in_force=tif, **more)


def resting(client: TradingClient, limit: float = 400.0, **more: Any) -> models.Order:
    return client.submit_order(order(cls=LimitOrderRequest, limit_price=limit, **more))


def refusal(act: Any) -> APIError:
    with pytest.raises(APIError) as caught:
        act()
    assert isinstance(caught.value.code, int) and caught.value.message
    return caught.value


# ---------------------------------------------------------------- every call of the trading client
def held(client: TradingClient, qty: int = 20) -> None:
    """Hold at least so many."""
    have = next((int(p.qty) for p in client.get_all_positions() if p.symbol == "AAPL"), 0)
    if have < qty:
        client.submit_order(order(qty - have))


SERVED: dict[str, Any] = {
    "submit_order": (models.Order, lambda c: c.submit_order(order())),
    "get_orders": (list, lambda c: c.get_orders(GetOrdersRequest(status=QueryOrderStatus.ALL, limit=500, nested=True))),
    "get_order_by_id": (models.Order, lambda c: c.get_order_by_id(resting(c).id, GetOrderByIdRequest(nested=True))),
    "get_order_by_client_id": (models.Order, lambda c: c.get_order_by_client_id(resting(c).client_order_id)),
    "replace_order_by_id": (models.Order, lambda c: c.replace_order_by_id(resting(c).id, ReplaceOrderRequest(limit_price=401.0))),
    "cancel_orders": (list, lambda c: (resting(c), c.cancel_orders())[1]),
    "cancel_order_by_id": (type(None), lambda c: c.cancel_order_by_id(resting(c).id)),
    "get_all_positions": (list, lambda c: (held(c), c.get_all_positions())[1]),
    "get_open_position": (models.Position, lambda c: (held(c), c.get_open_position("AAPL"))[1]),
    "close_position": (models.Order, lambda c: (held(c), c.close_position("AAPL", ClosePositionRequest(percentage="50")))[1]),
    "close_all_positions": (list, lambda c: (held(c), c.close_all_positions(cancel_orders=True))[1]),
    "get_portfolio_history": (models.PortfolioHistory,
                              lambda c: c.get_portfolio_history(GetPortfolioHistoryRequest(period="1W", timeframe="1D"))),
    "get_all_assets": (list, lambda c: c.get_all_assets()),
    "get_asset": (models.Asset, lambda c: c.get_asset("MSFT")),
    "get_clock": (models.Clock, lambda c: c.get_clock()),
    "get_calendar": (list, lambda c: c.get_calendar(GetCalendarRequest(start=date(2013, 2, 25), end=date(2013, 3, 1)))),
    "get_account": (models.TradeAccount, lambda c: c.get_account()),
    "get_account_configurations": (models.AccountConfiguration, lambda c: c.get_account_configurations()),
    "set_account_configurations": (models.AccountConfiguration, lambda c: c.set_account_configurations(c.get_account_configurations())),
    "get_corporate_announcements": (list, lambda c: c.get_corporate_announcements(
        GetCorporateAnnouncementsRequest(ca_types=["dividend"], since=date(2013, 1, 1), until=date(2013, 2, 1)))),
}
SOME = uuid.uuid4()
UNSERVED: dict[str, tuple[int, Any]] = {
    "exercise_options_position": (501, lambda c: c.exercise_options_position("AAPL130301C00440000")),
    "get_watchlists": (501, lambda c: c.get_watchlists()),
    "get_watchlist_by_id": (501, lambda c: c.get_watchlist_by_id(SOME)),
    "create_watchlist": (501, lambda c: c.create_watchlist(CreateWatchlistRequest(name="mine", symbols=["AAPL"]))),
    "update_watchlist_by_id": (501, lambda c: c.update_watchlist_by_id(SOME, UpdateWatchlistRequest(name="mine"))),
    "add_asset_to_watchlist_by_id": (501, lambda c: c.add_asset_to_watchlist_by_id(SOME, "AAPL")),
    "delete_watchlist_by_id": (501, lambda c: c.delete_watchlist_by_id(SOME)),
    "remove_asset_from_watchlist_by_id": (501, lambda c: c.remove_asset_from_watchlist_by_id(SOME, "AAPL")),
    "get_corporate_announcement_by_id": (404, lambda c: c.get_corporate_announcement_by_id(SOME)),
    "get_option_contracts": (501, lambda c: c.get_option_contracts(GetOptionContractsRequest(underlying_symbols=["AAPL"]))),
    "get_option_contract": (501, lambda c: c.get_option_contract("AAPL130301C00440000")),
}
OF_THE_TRANSPORT = {"get", "post", "put", "patch", "delete", "response_wrapper"}


def test_each_call_of_the_client_is_spoken_for():
    calls = {name for name in dir(TradingClient) if not name.startswith("_") and callable(getattr(TradingClient, name))}
    assert calls - OF_THE_TRANSPORT == SERVED.keys() | UNSERVED.keys()


@pytest.mark.parametrize("name", sorted(SERVED))
def test_served(client, name):
    kind, call = SERVED[name]
    answer = call(client)
    assert isinstance(answer, kind) and (kind is not list or answer or name == "get_corporate_announcements")
    assert not isinstance(answer, list) or all(isinstance(a, models.BaseModel) for a in answer)


@pytest.mark.parametrize("name", sorted(UNSERVED))
def test_not_served_is_said_in_alpacas_shape(client, name):
    status, call = UNSERVED[name]
    assert refusal(lambda: call(client)).status_code == status


# ---------------------------------------------------------------- an order's life
def test_a_submission_answers_before_the_fill_and_the_fill_is_there(client, venue):
    taken = client.submit_order(order(7, client_order_id="life.1"))
    assert (taken.status, taken.filled_qty, taken.qty) == (OrderStatus.PENDING_NEW, "0", "7")
    done = client.get_order_by_id(taken.id)
    assert (done.status, done.filled_qty, done.filled_avg_price) == (OrderStatus.FILLED, "7", "444.1")
    assert done.filled_at == done.submitted_at
    assert ("life.1", Decimal(7), Decimal("444.1")) in fills(venue.floor)
    assert done.order_class is OrderClass.SIMPLE and done.order_type is OrderType.MARKET and done.expired_at is done.canceled_at is None


@pytest.mark.parametrize(("cls", "prices"), [
    (MarketOrderRequest, {}), (LimitOrderRequest, {"limit_price": 400.25}), (StopOrderRequest, {"stop_price": 500.0}),
    (StopLimitOrderRequest, {"stop_price": 500.0, "limit_price": 501.0}), (TrailingStopOrderRequest, {"trail_price": 3.5}),
    (TrailingStopOrderRequest, {"trail_percent": 2.5})])
def test_every_type_of_order_comes_back_as_it_was_sent(client, cls, prices):
    taken = client.submit_order(order(3, cls=cls, tif=TimeInForce.GTC, **prices))
    known = client.get_order_by_id(taken.id)
    for name, price in prices.items():
        assert Decimal(str(getattr(known, name))) == Decimal(str(price))
    assert known.time_in_force is TimeInForce.GTC and known.status is (OrderStatus.FILLED if cls is MarketOrderRequest else OrderStatus.NEW)


@pytest.mark.parametrize("tif", [TimeInForce.DAY, TimeInForce.GTC, TimeInForce.CLS])
def test_orders_that_wait(client, tif):
    assert client.get_order_by_id(resting(client, tif=tif).id).status is OrderStatus.NEW


def test_at_once_or_not_at_all(client, venue):
    venue.quote("AAPL", "444.00", "444.10", 100, 60)
    some = client.submit_order(order(100, tif=TimeInForce.IOC))
    none = client.submit_order(order(100, tif=TimeInForce.FOK))
    some, none = client.get_order_by_id(some.id), client.get_order_by_id(none.id)
    assert (some.status, some.filled_qty) == (OrderStatus.CANCELED, "60") and (none.status, none.filled_qty) == (OrderStatus.CANCELED, "0")
    assert refusal(lambda: client.submit_order(order(tif=TimeInForce.OPG))).status_code == 403, "the opening is over"


def test_a_client_order_id_is_unique_and_a_refused_one_stays_free(client, venue):
    first = resting(client, client_order_id="twice.1")
    again = refusal(lambda: resting(client, client_order_id="twice.1"))
    assert (again.status_code, again.code, again.message) == (422, 40010001, "client_order_id must be unique")
    broke = refusal(lambda: client.submit_order(order(10**6, client_order_id="free.1")))
    assert (broke.status_code, broke.code) == (403, 40310000) and "buying_power" in str(broke)
    assert refusal(lambda: client.get_order_by_client_id("free.1")).status_code == 404
    assert resting(client, client_order_id="free.1").id != first.id


def test_what_the_venue_does_not_have_is_refused(client):
    bracket = {"order_class": OrderClass.BRACKET, "take_profit": TakeProfitRequest(limit_price=500.0),
               "stop_loss": StopLossRequest(stop_price=400.0)}
    for wrong, status in ((order(**bracket), 422), (order(1.5), 403), (order(extended_hours=True), 422), (order(-1), 422),
                          (MarketOrderRequest(symbol="AAPL", notional=100.0, side=OrderSide.BUY, time_in_force=TimeInForce.DAY), 422),
                          (MarketOrderRequest(symbol="NOPE", qty=1, side=OrderSide.BUY, time_in_force=TimeInForce.DAY), 422),
                          (order(cls=LimitOrderRequest, limit_price=1.001), 422), (order(client_order_id="x" * 65), 422),
                          (MarketOrderRequest(symbol="MSFT", qty=1, side=OrderSide.SELL, time_in_force=TimeInForce.DAY), 403)):
        assert refusal(lambda wrong=wrong: client.submit_order(wrong)).status_code == status, wrong


def test_replacing(client, venue):
    old = resting(client, 440.0, qty=200)
    venue.quote("AAPL", "439.90", "440.00", 100, 50)
    assert client.get_order_by_id(old.id).filled_qty == "50"
    new = client.replace_order_by_id(old.id, ReplaceOrderRequest(qty=120, limit_price=439.5, client_order_id="moved.1"))
    assert (new.replaces, new.qty, new.client_order_id) == (old.id, "70", "moved.1"), "120 in all, 50 of them filled"
    was = client.get_order_by_id(old.id)
    assert (was.status, was.replaced_by, was.filled_qty) == (OrderStatus.REPLACED, new.id, "50")
    assert refusal(lambda: client.replace_order_by_id(old.id, ReplaceOrderRequest(qty=130))).message == "order already replaced"
    assert refusal(lambda: client.replace_order_by_id(new.id, ReplaceOrderRequest(qty=10**6))).status_code == 403
    assert client.get_order_by_id(new.id).status is OrderStatus.NEW


def test_cancelling(client):
    one = resting(client)
    client.cancel_order_by_id(one.id)
    late = refusal(lambda: client.cancel_order_by_id(one.id))
    assert (late.status_code, late.message) == (422, 'order is already in "canceled" state')
    assert refusal(lambda: client.cancel_order_by_id(SOME)).status_code == 404
    two = [resting(client).id for _ in range(2)]
    assert {(r.id, r.status) for r in client.cancel_orders()} == {(i, 200) for i in two} and client.cancel_orders() == []


def test_listing(client):
    made = [resting(client, 400.0 + i, client_order_id=f"list.{i}") for i in range(4)]
    client.cancel_order_by_id(made[0].id)
    assert [o.client_order_id for o in client.get_orders()] == ["list.3", "list.2", "list.1"]
    closed = client.get_orders(GetOrdersRequest(status=QueryOrderStatus.CLOSED, limit=1))
    assert [o.client_order_id for o in closed] == ["list.0"]
    up = client.get_orders(GetOrdersRequest(direction="asc", limit=2, symbols=["AAPL", "MSFT"], side=OrderSide.BUY))
    assert [o.client_order_id for o in up] == ["list.1", "list.2"]
    assert client.get_orders(GetOrdersRequest(after=datetime(2030, 1, 1, tzinfo=UTC))) == []
    assert client.get_orders(GetOrdersRequest(symbols=["IBM"])) == []


def test_the_account_can_be_suspended(client, venue):
    settings = client.get_account_configurations()
    settings.suspend_trade = True
    try:
        assert client.set_account_configurations(settings).suspend_trade and client.get_account().trade_suspended_by_user
        no = refusal(lambda: client.submit_order(order()))
        assert (no.status_code, no.code, no.message) == (403, 40310000, "new orders are rejected by user request")
        assert venue.floor.account().blocked
    finally:
        settings.suspend_trade = False
        client.set_account_configurations(settings)
    assert client.submit_order(order(1)).id and not client.get_account().trade_suspended_by_user


# ---------------------------------------------------------------- positions, account, activities agree with the books
def test_position_account_and_activities_are_those_of_the_books(client, venue):
    held(client, 30)
    client.submit_order(order(5, OrderSide.SELL))
    fill = next(a for a in client.get("/account/activities/FILL") if a["side"] == "sell")
    venue.correct(fill["id"].partition("::")[2], 4, "444.05")
    theirs, mine = venue.floor.account(), client.get_account()
    assert (Decimal(mine.cash), Decimal(mine.equity), Decimal(mine.buying_power)) == (theirs.cash, theirs.equity, theirs.buying_power)
    (position,) = client.get_all_positions()
    assert Decimal(position.qty) == venue.floor.positions()["AAPL"].quantity == Decimal(client.get_open_position(position.asset_id).qty)
    standing: dict[str, Decimal] = {}
    cash = Decimal(0)
    for a in every_activity(client):
        if a["activity_type"] == "FILL":
            traded = round((0 if a["status"] == "canceled" else Decimal(a["qty"])) * Decimal(a["price"]), 2)
            standing[a.get("previous_id", a["id"])] = traded * (-1 if a["side"] == "buy" else 1)
        else:
            cash += Decimal(a["net_amount"])
    assert cash + sum(standing.values()) == theirs.cash, "to the cent"


def every_activity(client: TradingClient) -> list[dict[str, Any]]:
    """All activities, oldest first, page by page."""
    found: list[dict[str, Any]] = []
    query: dict[str, Any] = {"direction": "asc", "page_size": 7}
    while page := client.get("/account/activities", query):
        found += page
        query["page_token"] = found[-1]["id"]
    assert [a["id"][:17] for a in found] == sorted(a["id"][:17] for a in found) and len({a["id"] for a in found}) == len(found)
    for a in found:
        (models.TradeActivity if a["activity_type"] == "FILL" else models.NonTradeActivity)(**a)
    return found


def test_closing(client):
    held(client, 20)
    position = int(client.get_open_position("AAPL").qty)
    assert client.close_position("AAPL", ClosePositionRequest(qty="5")).qty == "5"
    done = client.close_all_positions(cancel_orders=True)
    assert [(r.symbol, r.status, r.body.qty) for r in done] == [("AAPL", 200, str(position - 5))]
    assert client.get_all_positions() == [] and refusal(lambda: client.close_position("AAPL")).status_code == 404


def test_the_clock_is_the_venues(client, venue):
    clock = client.get_clock()
    assert clock.is_open and clock.timestamp.astimezone(UTC).date() == date(2013, 2, 28)
    assert (clock.next_close.hour, clock.next_open.date()) == (16, date(2013, 3, 1))
    assert [d.close.hour for d in client.get_calendar(GetCalendarRequest(start=date(2012, 11, 22), end=date(2012, 11, 26)))] == [13, 16]


# ---------------------------------------------------------------- who may ask, and how often
def test_a_wrong_key_is_refused(venue):
    for key, secret in ((venue.key, "guess"), ("PKGUESS", venue.secret)):
        no = refusal(TradingClient(key, secret, url_override=venue.url).get_account)
        assert (no.status_code, no.code) == (401, 40110000)
    assert venue.ask("GET", "/venue", secret="guess")[0] == 401, "the control calls too"


def test_rate_limits(tmp_path):
    with running_venue(tmp_path, limit=10) as venue:
        left = [int(venue.ask("GET", "/v2/account")[2]["X-RateLimit-Remaining"]) for _ in range(10)]
        assert left[0] == 9 and left[-1] <= 1 and left == sorted(left, reverse=True)
        for _ in range(3):
            status, body, headers = venue.ask("GET", "/v2/account")
            if status == 429:
                break
        assert status == 429 and body["code"] == 42910000 and 1 <= int(headers["Retry-After"]) <= 6 and headers["X-RateLimit-Limit"] == "10"
        reset = int(headers["X-RateLimit-Reset"]) - datetime.now(UTC).timestamp()
        assert 0 < reset <= 61
        client = TradingClient(venue.key, venue.secret, url_override=venue.url)  # waits and asks again by itself
        assert client.get_account().status.value == "ACTIVE"
        assert [e["status"] for e in venue.log() if e["path"] == "/v2/account"].count(429) >= 2


# ---------------------------------------------------------------- market data
@pytest.fixture(scope="module")
def moving(tmp_path_factory):
    """A venue whose market plays the history."""
    with running_venue(tmp_path_factory.mktemp("moving"), source="history", at="2013-02-28T14:00:00Z") as running:
        running.advance(45 * 60)
        yield running


def test_market_data(moving):
    data, start = StockHistoricalDataClient(moving.key, moving.secret, url_override=moving.url), datetime(2013, 2, 28, 14, 30, tzinfo=UTC)
    both = ["AAPL", "MSFT"]
    quotes = data.get_stock_latest_quote(StockLatestQuoteRequest(symbol_or_symbols=both))
    assert set(quotes) == set(both) and all(isinstance(q, Quote) and 0 < q.bid_price < q.ask_price for q in quotes.values())
    assert all(isinstance(t, Trade) for t in data.get_stock_latest_trade(StockLatestTradeRequest(symbol_or_symbols=both)).values())
    assert all(isinstance(b, Bar) for b in data.get_stock_latest_bar(StockLatestBarRequest(symbol_or_symbols=both)).values())
    snap = data.get_stock_snapshot(StockSnapshotRequest(symbol_or_symbols=both))["AAPL"]
    assert isinstance(snap, Snapshot) and snap.previous_daily_bar.close == 444.57 and snap.latest_quote == quotes["AAPL"]
    minutes = data.get_stock_bars(StockBarsRequest(symbol_or_symbols=both, timeframe=TimeFrame.Minute, start=start))
    assert [len(minutes[s]) for s in both] == [16, 16] and minutes["AAPL"][0].open == pytest.approx(444.05, abs=0.02)
    fives = data.get_stock_bars(StockBarsRequest(symbol_or_symbols="AAPL", timeframe=TimeFrame(5, TimeFrameUnit.Minute), start=start))
    assert len(fives["AAPL"]) == 4 and fives["AAPL"][0].high == max(b.high for b in minutes["AAPL"][:5])
    days = data.get_stock_bars(StockBarsRequest(symbol_or_symbols="AAPL", timeframe=TimeFrame.Day, start=datetime(2013, 2, 1, tzinfo=UTC)))
    assert len(days["AAPL"]) == 19 and days["AAPL"][-2].close == 444.57
    few = StockQuotesRequest(symbol_or_symbols=both, start=start, end=start + timedelta(minutes=5))
    assert [len(data.get_stock_quotes(few)[s]) for s in both] == [6, 6]
    assert len(data.get_stock_trades(StockTradesRequest(symbol_or_symbols="MSFT", start=start))["MSFT"]) == 16
    assert refusal(lambda: data.get_stock_bars(StockBarsRequest(symbol_or_symbols="AAPL", timeframe=TimeFrame.Week))).status_code == 422


def test_the_market_fills_what_it_reaches(moving):
    client = TradingClient(moving.key, moving.secret, url_override=moving.url)
    limit = client.submit_order(order(9_000, cls=LimitOrderRequest, limit_price=442.0))
    moving.advance(3 * 3600)
    moving.advance(4 * 3600)
    done = client.get_order_by_id(limit.id)
    assert done.status is OrderStatus.FILLED and float(done.filled_avg_price) <= 442.0 and not client.get_clock().is_open
    assert len([f for f in fills(moving.floor) if f[0] == limit.client_order_id]) > 1, "in parts"
    assert client.get_order_by_id(client.submit_order(order(1)).id).status is OrderStatus.ACCEPTED, "waits for the next open"


# ---------------------------------------------------------------- streams
class Listening:
    """A stream of the SDK in a thread of its own, and what it delivered."""

    def __init__(self, stream: Any, subscribe: Any) -> None:
        self.stream, self.got = stream, []

        async def take(message: Any) -> None:
            self.got.append(message)

        subscribe(stream, take)
        self.thread = threading.Thread(target=stream.run, daemon=True)

    def __enter__(self) -> "Listening":
        self.thread.start()
        wait_until(lambda: self.stream._running, "the stream is connected")
        return self

    def __exit__(self, *error: Any) -> None:
        self.stream.stop()
        self.thread.join(20)
        assert not self.thread.is_alive()


def updates(venue: RunningVenue) -> Listening:
    return Listening(TradingStream(venue.key, venue.secret, url_override=venue.stream_url), lambda s, take: s.subscribe_trade_updates(take))


def test_trade_updates(venue, client):
    with updates(venue) as heard:
        wait_until(lambda: venue.control("GET", "")["lines"] >= 1, "the venue knows the line")
        venue.quote("AAPL", "444.00", "444.10", 500, 60)
        part = client.submit_order(order(100, client_order_id="heard.1"))
        venue.quote("AAPL", "444.00", "444.20", 500, 500)
        rest = resting(client, client_order_id="heard.2")
        moved = client.replace_order_by_id(rest.id, ReplaceOrderRequest(limit_price=401.0, client_order_id="heard.3"))
        client.cancel_order_by_id(moved.id)
        first = wait_until(lambda: next((u for u in heard.got if u.event == TradeEvent.PARTIAL_FILL), None), "the first fill is heard")
        venue.correct(first.execution_id, 60, "444.05")
        venue.bust(first.execution_id)
        wait_until(lambda: any(u.event == "trade_bust" for u in heard.got), "the bust is heard")
    of = {c: [u for u in heard.got if u.order.client_order_id == c] for c in ("heard.1", "heard.2", "heard.3")}
    assert [u.event for u in of["heard.1"]] == ["new", "partial_fill", "fill", "trade_correct", "trade_bust"]
    assert [u.event for u in of["heard.2"]] == ["new", "pending_replace", "replaced"]
    assert [u.event for u in of["heard.3"]] == ["new", "pending_cancel", "canceled"]
    new, partial, fill, corrected, busted = of["heard.1"]
    assert (new.order.filled_qty, partial.order.filled_qty, fill.order.filled_qty, busted.order.filled_qty) == ("0", "60", "100", "40")
    assert (partial.qty, partial.price, fill.qty, fill.price, corrected.price, busted.qty) == (60, 444.1, 40, 444.2, 444.05, 60)
    assert fill.position_qty - partial.position_qty == 40 and busted.position_qty == fill.position_qty - 60
    assert of["heard.2"][-1].order.replaced_by == moved.id and fill.order.id == part.id
    executions = {a["id"].partition("::")[2] for a in client.get("/account/activities/FILL")}
    assert {str(u.execution_id) for u in (partial, fill, corrected, busted)} <= executions, "the stream and the activities name them alike"


def test_a_rejection_and_an_expiry_are_heard(tmp_path):
    with running_venue(tmp_path) as venue, updates(venue) as heard:
        client = TradingClient(venue.key, venue.secret, url_override=venue.url)
        wait_until(lambda: venue.control("GET", "")["lines"] == 1, "the venue knows the line")
        venue.quote("AAPL", "444.00", "444.10")
        venue.faults({"kind": "reject", "next": 1})
        assert client.submit_order(order(client_order_id="no.1")).status is OrderStatus.PENDING_NEW, "taken, and rejected a moment later"
        resting(client, client_order_id="day.1")
        venue.close()
        wait_until(lambda: len(heard.got) >= 3, "three updates")
    assert [(u.order.client_order_id, u.event, u.order.status.value) for u in heard.got] == [
        ("no.1", "rejected", "rejected"), ("day.1", "new", "new"), ("day.1", "expired", "expired")]


def test_quotes_trades_and_bars_are_streamed(venue, client):
    stream = StockDataStream(venue.key, venue.secret, url_override=venue.data_stream_url)

    def subscribe(s: StockDataStream, take: Any) -> None:
        s.subscribe_quotes(take, "AAPL")
        s.subscribe_trades(take, "*")
        s.subscribe_bars(take, "AAPL")

    with Listening(stream, subscribe) as heard:
        wait_until(lambda: venue.control("GET", "")["lines"] >= 1, "the venue knows the line")
        resting(client, 443.0, qty=5)
        venue.quote("MSFT", "27.00", "27.01")
        venue.quote("AAPL", "442.80", "442.90", 300, 200)
        venue.advance(60)
        venue.quote("AAPL", "443.80", "443.90")
        wait_until(lambda: len(heard.got) >= 4, "four messages")
    kinds = [type(m).__name__ for m in heard.got]
    assert sorted(kinds) == ["Bar", "Quote", "Quote", "Trade"] and {m.symbol for m in heard.got} == {"AAPL"}
    quote, trade, bar = (next(m for m in heard.got if isinstance(m, kind)) for kind in (Quote, Trade, Bar))
    assert (quote.bid_price, quote.ask_size) == (442.8, 200) and (trade.price, trade.size) == (442.9, 5) and bar.close == 442.85


def test_a_stream_with_a_wrong_key_gets_nothing(venue):
    stream = TradingStream(venue.key, "guess", url_override=venue.stream_url)

    async def take(message: Any) -> None:
        raise AssertionError(message)

    stream.subscribe_trade_updates(take)
    thread = threading.Thread(target=stream.run, daemon=True)
    thread.start()
    assert not stream._running
    wait_until(lambda: stream._loop is not None, "it tries")
    thread.join(0.5)
    assert not stream._running, "it is not let in"
    stream.stop()
    thread.join(20)
