"""The pre-trade chain the plain way: everything added up anew for each order, with pandas. What `risk.pretrade` says is compared with it.

It is the measure of `tests/test_risk_pretrade.py` and the other side of `benchmarks/bench_pretrade.py`. It shares the words of a book and
of the limits with the product, and none of its arithmetic but the tail measures of `risk.measures`, which have tests of their own.
"""
from dataclasses import dataclass
from decimal import Decimal as D

from gpt_trader.core.calendar import get_calendar
from gpt_trader.core.outcome import GptTraderError
from gpt_trader.risk.limits import Book, Limits, OrderLike, likeness
from gpt_trader.risk.measures import exposure, tail_risk


@dataclass(frozen=True)
class Said:
    """A limit that is not kept, and by how much: the figure, and the bound in the same unit, where there are figures."""

    limit: str
    figure: float | None = None
    bound: float | None = None

    @property
    def close(self) -> bool:
        """Whether the figure lies within half a cent (or a billionth) of its bound, where the order of adding floats decides."""
        return self.figure is not None and self.bound is not None and abs(self.figure - self.bound) <= max(0.006, 1e-9 * abs(self.bound))


def values(book: Book, order: OrderLike | None) -> dict[str, D]:
    """Signed values with the order and the working ones filled, each symbol on its larger side; KeyError without a price."""
    found = {}
    for symbol in {*book.quantities, *book.working_buys, *book.working_sells, *([order.symbol] if order else [])}:
        held = book.quantities.get(symbol, D(0))
        more = order.quantity if order is not None and order.symbol == symbol else D(0)
        up = held + book.working_buys.get(symbol, D(0)) + (more if order and order.side == "buy" else 0)
        down = held - book.working_sells.get(symbol, D(0)) - (more if order and order.side == "sell" else 0)
        quantity = up if abs(up) >= abs(down) else down
        if quantity:
            found[symbol] = quantity * book.prices[symbol]
    return found


def reduces(book: Book, order: OrderLike) -> bool:
    """Whether the order only brings the position towards zero, in the worst case."""
    held = book.quantities.get(order.symbol, D(0))
    working = (book.working_buys if order.side == "buy" else book.working_sells).get(order.symbol, D(0))
    return (held > 0 and order.side == "sell" or held < 0 and order.side == "buy") and working + order.quantity <= abs(held)


def mistakes(order: OrderLike, book: Book, limits: Limits, instruments) -> list[Said]:
    """What holds for every order."""
    found = [Said("duplicate_client_order_id")] if order.client_order_id in book.known_ids else []
    found += [Said("restricted_symbols")] if order.symbol in limits.restricted_symbols else []
    try:
        instrument = instruments.get(order.symbol)
    except GptTraderError:
        return [*found, Said("unknown_instrument")]
    found += [Said("lot")] if order.quantity <= 0 or order.quantity % instrument.lot else []
    stated = [p for p in (order.limit_price, order.stop_price, order.trail_price) if p is not None]
    found += [Said("tick") for p in stated if p % instrument.tick]
    price = book.prices.get(order.symbol)
    if order.limit_price and limits.price_collar is not None and (near := order.stop_price or price):
        found += [Said("price_collar")] if abs(order.limit_price - near) > limits.price_collar * near else []
    if limits.stop_collar is not None:
        away = [abs(order.stop_price - price)] if order.stop_price and price else []
        away += [order.trail_price] if order.trail_price and price else []
        found += [Said("stop_collar") for x in away if x > limits.stop_collar * price]
        found += [Said("stop_collar")] if order.trail_percent and order.trail_percent > 100 * limits.stop_collar else []
    twins = [at for at, like in book.recent if like == likeness(order)]
    if limits.duplicate_seconds and any((book.now - at).total_seconds() < limits.duplicate_seconds for at in twins):
        found.append(Said("duplicate_seconds"))
    if limits.max_orders_per_minute is not None:
        lately = sum((book.now - at).total_seconds() < 60 for at, _ in book.recent)
        found += [Said("max_orders_per_minute")] if lately + 1 > limits.max_orders_per_minute else []
    return found


def hours(order: OrderLike, book: Book, limits: Limits) -> list[Said]:
    """Outside its window; by the minute, from the calendar."""
    if not limits.trading_hours:
        return []
    calendar = get_calendar()
    if book.now is None or book.session is None or not calendar.is_session(book.session):
        return [Said("trading_hours")]
    opening, closing = calendar.open_close(book.session)
    before = calendar.open_close(calendar.previous_session(book.session))[1]
    start = {"ioc": opening, "fok": opening}.get(order.time_in_force, before)
    minutes_left = (closing - book.now).total_seconds() / 60 if order.time_in_force != "opg" else (opening - book.now).total_seconds() / 60
    cutoff = {"opg": limits.opening_cutoff_minutes, "cls": limits.closing_cutoff_minutes}.get(order.time_in_force, 0)
    return [Said("trading_hours")] if book.now < start or minutes_left <= cutoff else []


def added_risk(order: OrderLike, book: Book, limits: Limits) -> list[Said]:
    """What only orders that add risk are held to, exposures apart."""
    found = []
    found += [Said("max_orders_per_session")] if limits.max_orders_per_session is not None and (
        book.orders_sent + 1 > limits.max_orders_per_session) else []
    found += [Said("max_open_orders")] if limits.max_open_orders is not None and book.orders_open + 1 > limits.max_open_orders else []
    found += [Said("closing_only_symbols")] if order.symbol in limits.closing_only_symbols else []
    after = book.quantities.get(order.symbol, D(0)) - book.working_sells.get(order.symbol, D(0)) - order.quantity
    found += [Said("allow_short")] if order.side == "sell" and not limits.allow_short and after < 0 else []
    found += [Said("max_daily_loss")] if limits.max_daily_loss is not None and book.session_pnl < -limits.max_daily_loss else []
    found += [Said("max_drawdown")] if limits.max_drawdown is not None and book.drawdown > limits.max_drawdown else []
    return found


def sizes(order: OrderLike, book: Book, limits: Limits) -> list[Said]:
    """The order by itself."""
    notional, found = order.quantity * max(book.prices[order.symbol], order.limit_price or order.stop_price or D(0)), []
    found += [Said("max_order_notional")] if limits.max_order_notional is not None and notional > limits.max_order_notional else []
    if limits.max_order_participation is not None:
        volume = book.mean_volume.get(order.symbol, 0)
        found += [Said("max_order_participation")] if not volume or float(order.quantity) / volume > limits.max_order_participation else []
    if limits.min_cash is not None and book.cash is not None and order.side == "buy":
        left = book.cash - notional - sum(q * book.prices[s] for s, q in book.working_buys.items())
        found += [Said("min_cash")] if left < limits.min_cash else []
    return found


def risks(order: OrderLike, book: Book, limits: Limits) -> list[Said]:
    """Exposure, concentration, VaR and shortfall of the whole book, with the order and without it."""
    after, now, found = values(book, order), values(book, None), []
    equity, one, was = book.equity, exposure(after), exposure(now)
    gross, net = sum(map(abs, after.values())), abs(sum(after.values()))
    for name, limit, size in (("max_position_weight", limits.max_position_weight, abs(after.get(order.symbol, D(0)))),
                              ("max_gross_exposure", limits.max_gross_exposure, gross), ("max_net_exposure", limits.max_net_exposure, net)):
        if limit is not None and size > limit * equity:
            found.append(Said(name))
    if gross and gross >= limits.concentration_from * equity:
        for name, limit, share, before in (("max_largest_share", limits.max_largest_share, one.largest_share, was.largest_share),
                                           ("max_herfindahl", limits.max_herfindahl, one.herfindahl, was.herfindahl)):
            if limit is not None and share > float(limit) and share >= before - 1e-12:
                found.append(Said(name, share, float(limit) if abs(share - float(limit)) < abs(share - before) else before))
    if limits.max_var is None and limits.max_expected_shortfall is None:
        return found
    risk, before = ((tail_risk({s: float(v) for s, v in x.items()}, book.returns, limits.confidence) if book.returns is not None else None)
                    for x in (after, now))
    for name, limit, kind in (("max_var", limits.max_var, "var"), ("max_expected_shortfall", limits.max_expected_shortfall, "es")):
        if limit is None:
            continue
        figure, base = getattr(risk, kind, None), getattr(before, kind, None) or 0.0
        if figure is None:
            found.append(Said(name))
        elif figure > limit and figure >= base - 1e-6:
            found.append(Said(name, figure, limit if abs(figure - limit) < abs(figure - base) else base))
    return found


def check_slowly(order: OrderLike, book: Book, limits: Limits, instruments) -> list[Said]:
    """Every limit that the order does not keep."""
    found = mistakes(order, book, limits, instruments)
    if any(said.limit == "unknown_instrument" for said in found):
        return found
    found += hours(order, book, limits)
    if reduces(book, order):
        return found
    found += added_risk(order, book, limits)
    involved = {order.symbol, *(s for s, q in book.quantities.items() if q), *book.working_buys, *book.working_sells}
    if any(not book.prices.get(symbol) for symbol in involved) or book.equity is None or book.equity <= 0:
        return [*found, Said("not_measurable")]
    return [*found, *sizes(order, book, limits), *risks(order, book, limits)]
