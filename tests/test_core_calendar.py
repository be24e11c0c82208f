"""The exchange's calendar against what is known of its history."""
from datetime import UTC, date, datetime

import pytest

from gpt_trader.core.calendar import TradingCalendar, get_calendar
from gpt_trader.core.outcome import ConfigError, UsageError


@pytest.fixture(scope="module")
def nyse() -> TradingCalendar:
    return get_calendar("XNYS")


@pytest.mark.parametrize(("year", "count"), [(2001, 248), (2012, 250), (2013, 252), (2019, 252)])
def test_sessions_in_a_year(nyse: TradingCalendar, year: int, count: int) -> None:
    assert len(nyse.sessions(date(year, 1, 1), date(year, 12, 31))) == count


def test_closed_after_september_11(nyse: TradingCalendar) -> None:
    assert nyse.next_session(date(2001, 9, 10)) == date(2001, 9, 17) and nyse.previous_session(date(2001, 9, 17)) == date(2001, 9, 10)


def test_moves_are_inverse(nyse: TradingCalendar) -> None:
    sessions = nyse.sessions(date(2012, 1, 1), date(2013, 12, 31))
    for before, after in zip(sessions, sessions[1:], strict=False):
        assert nyse.next_session(before) == after and nyse.previous_session(after) == before
    assert nyse.sessions_before(sessions[-1], 21) == sessions[-22:-1]


def test_hours_follow_daylight_saving_and_early_closes(nyse: TradingCalendar) -> None:
    assert nyse.open_close(date(2013, 3, 8)) == (datetime(2013, 3, 8, 14, 30, tzinfo=UTC), datetime(2013, 3, 8, 21, 0, tzinfo=UTC))
    assert nyse.open_close(date(2013, 3, 11))[0] == datetime(2013, 3, 11, 13, 30, tzinfo=UTC)
    assert nyse.open_close(date(2013, 7, 3))[1] == datetime(2013, 7, 3, 17, 0, tzinfo=UTC)


@pytest.mark.parametrize(("moment", "session"), [
    (datetime(2013, 3, 4, 9, 0, tzinfo=UTC), date(2013, 3, 4)),  # before the open
    (datetime(2013, 3, 5, 2, 0, tzinfo=UTC), date(2013, 3, 4)),  # the evening in New York
    (datetime(2013, 3, 2, 12, 0, tzinfo=UTC), date(2013, 3, 1)),  # a Saturday
    (datetime(2012, 10, 30, 15, 0, tzinfo=UTC), date(2012, 10, 26)),  # the hurricane
])
def test_session_of_a_moment(nyse: TradingCalendar, moment: datetime, session: date) -> None:
    assert nyse.session_of(moment) == session


def test_what_cannot_be_answered_is_refused(nyse: TradingCalendar) -> None:
    for question in (lambda: nyse.is_session(date(1989, 12, 29)), lambda: nyse.open_close(date(2013, 3, 2)),
                     lambda: nyse.sessions_before(date(1990, 1, 5), 10), lambda: nyse.session_of(datetime(2013, 3, 1))):
        with pytest.raises(UsageError):
            question()
    with pytest.raises(ConfigError, match="XNYS"):
        TradingCalendar("XNYC")
