"""Bookkeeping of a position: nothing is made or lost, whatever the trades and splits."""
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_trader.trading.broker import to_cents
from gpt_trader.trading.ledger import Basis, book_split, dividend, split, trade

QUANTITIES = st.integers(-500, 500).map(Decimal)
PRICES = st.decimals("0.01", "900", places=2)
TRADES = st.lists(st.tuples(QUANTITIES, PRICES), max_size=30)
RATIOS = st.sampled_from([Decimal(x) for x in ("2", "3", "7", "1.5", "0.5", "0.1", "0.0625", "1.005")])


def after(trades: list[tuple[Decimal, Decimal]]) -> tuple[Basis, Decimal]:
    """The position, and what was paid for everything."""
    basis, paid = Basis(), Decimal(0)
    for quantity, price in trades:
        basis, paid = trade(basis, quantity, quantity * price), paid + quantity * price
    return basis, paid


@given(TRADES)
def test_cost_less_gains_is_what_was_paid(trades: list[tuple[Decimal, Decimal]]) -> None:
    basis, paid = after(trades)
    assert basis.cost - basis.realised == paid
    assert basis.quantity == sum((q for q, _ in trades), Decimal(0))
    assert basis.cost == to_cents(basis.cost) and basis.realised == to_cents(basis.realised)


@given(TRADES)
def test_cost_has_the_sign_of_the_position_and_an_empty_one_has_none(trades: list[tuple[Decimal, Decimal]]) -> None:
    basis, _ = after(trades)
    assert basis.quantity * basis.cost >= 0
    if not basis.quantity:
        assert basis.cost == 0 == basis.average_price


@given(TRADES, PRICES)
def test_closing_realises_the_difference(trades: list[tuple[Decimal, Decimal]], price: Decimal) -> None:
    basis, paid = after(trades)
    closed = trade(basis, -basis.quantity, -basis.quantity * price)
    assert (closed.quantity, closed.cost) == (0, 0)
    assert closed.realised == basis.quantity * price - paid


@given(TRADES, RATIOS, st.sampled_from(["1", "0.001", "100"]), PRICES)
def test_a_split_conserves_value(trades: list[tuple[Decimal, Decimal]], ratio: Decimal, lot: str, price: Decimal) -> None:
    basis, _ = after(trades)
    result = split(basis, ratio, Decimal(lot), price)
    assert result.basis.quantity % Decimal(lot) == 0
    fraction = basis.quantity * ratio - result.basis.quantity
    assert abs(fraction) < Decimal(lot) and fraction * basis.quantity >= 0
    assert result.cash == to_cents(fraction * price)
    assert result.basis.cost - result.basis.realised == basis.cost - basis.realised - result.cash
    assert book_split(basis, ratio, result.change, result.cash) == result.basis


def test_dividends_are_paid_to_the_cent_and_by_the_short() -> None:
    assert dividend(Decimal(3), Decimal("0.333")) == Decimal("1.00") == -dividend(Decimal(-3), Decimal("0.333"))


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="signs"):
        trade(Basis(), Decimal(1), Decimal(-1))
    with pytest.raises(ValueError, match="ratio"):
        split(Basis(), Decimal(0), Decimal(1), Decimal(1))
