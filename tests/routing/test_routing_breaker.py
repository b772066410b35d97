"""The circuit: every way through its states, on a clock of the test's own."""

from __future__ import annotations

import asyncio

import pytest

from marketd.routing import Breaker, BreakerConfig
from marketd.testing import ManualClock

CONFIG = BreakerConfig(failures=3, error_rate=0.7, calls_min=10, open_first_s=5.0, open_max_s=20.0, probe_s=60.0)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def breaker(clock):
    return Breaker(CONFIG, clock)


def after(clock, seconds):
    asyncio.run(clock.advance(seconds))


def fail(breaker, times=3):
    for _ in range(times):
        assert breaker.take()
        breaker.failed()


def test_it_opens_after_so_many_failures_in_a_row(breaker):
    fail(breaker, 2)
    breaker.succeeded()
    fail(breaker, 2)
    assert breaker.state == "closed"
    fail(breaker, 1)
    assert breaker.state == "open"
    assert not breaker.take()
    assert breaker.open_s == 5.0


def test_it_opens_at_a_high_error_rate_once_there_were_enough_calls(breaker):
    breaker.failed(0.9, 9)
    breaker.succeeded()
    assert breaker.state == "closed"
    breaker.failed(0.7, 10)
    assert breaker.state == "open"


def test_it_half_opens_for_one_call_at_a_time(breaker, clock):
    fail(breaker)
    after(clock, 5)
    assert breaker.state == "half_open"
    assert breaker.take()
    assert not breaker.has_turn
    assert not breaker.take()
    breaker.succeeded()
    assert breaker.state == "closed"
    assert breaker.take()
    assert breaker.take()


def test_a_failed_probe_opens_it_for_twice_as_long_up_to_a_limit(breaker, clock):
    fail(breaker)
    for open_s in (5, 10, 20, 20):
        assert breaker.open_s == open_s
        after(clock, open_s - 0.001)
        assert breaker.state == "open"
        after(clock, 0.001)
        fail(breaker, 1)


def test_it_begins_anew_after_a_long_time_closed(breaker, clock):
    fail(breaker)
    after(clock, 5)
    assert breaker.take()
    breaker.succeeded()
    after(clock, 19.9)
    fail(breaker)
    assert breaker.open_s == 10
    after(clock, 10)
    assert breaker.take()
    breaker.succeeded()
    after(clock, 20)
    fail(breaker)
    assert breaker.open_s == 5


def test_a_probe_that_says_nothing_gives_its_turn_back(breaker, clock):
    fail(breaker)
    after(clock, 5)
    assert breaker.take()
    breaker.released()
    assert breaker.state == "half_open"
    assert breaker.take()


def test_a_probe_that_is_never_heard_of_again_is_given_up(clock):
    breaker = Breaker(BreakerConfig(failures=1, open_first_s=1.0, open_max_s=300.0, probe_s=60.0), clock)
    breaker.failed()
    after(clock, 1)
    assert breaker.take()
    after(clock, 59.9)
    assert not breaker.take()
    after(clock, 0.1)
    assert breaker.take()


def test_calls_that_began_before_it_opened_do_not_count_against_it(breaker, clock):
    fail(breaker)
    for _ in range(10):
        breaker.failed()
    assert breaker.open_s == 5
    after(clock, 5)
    assert breaker.state == "half_open"


def test_an_answer_while_it_is_open_ends_the_waiting(breaker):
    fail(breaker)
    breaker.succeeded()
    assert breaker.state == "half_open"
    breaker.succeeded()
    assert breaker.state == "closed"


def test_what_the_provider_asks_for_is_a_lower_limit(breaker, clock):
    assert breaker.take()
    breaker.failed(retry_after_s=90.0)
    assert breaker.state == "closed"  # one failure is not enough, whatever it says
    breaker.failed()
    breaker.failed(retry_after_s=90.0)
    assert breaker.open_s == 90.0
    after(clock, 90)
    assert breaker.state == "half_open"


def test_nobody_asked_for_long_closes_it_on_trust_of_one_call(breaker, clock):
    fail(breaker)
    after(clock, 5 + 19.9)
    assert breaker.state == "half_open"
    after(clock, 0.1)
    assert breaker.state == "closed"
    fail(breaker, 1)
    assert breaker.state == "open"
