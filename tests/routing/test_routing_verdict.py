"""What failures mean, and that what is passed on holds no secret."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.errors import (
    MalformedMessage,
    MarketClosed,
    NotEntitled,
    OutOfRange,
    SourceError,
    SourceRejected,
    SourceUnavailable,
    SymbolNotFound,
    Throttled,
)
from marketd.routing.quota import OutOfQuota
from marketd.routing.verdict import kind_of, redacted, verdict


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (SymbolNotFound("a", ""), "answer"),
        (OutOfRange("a", ""), "answer"),
        (MarketClosed("a", ""), "answer"),
        (Throttled("a", ""), "throttled"),
        (OutOfQuota("a", ""), "throttled"),
        (NotEntitled("a", ""), "not_entitled"),
        (SourceRejected("a", ""), "failure"),
        (SourceUnavailable("a", ""), "failure"),
        (MalformedMessage("a", ""), "failure"),
        (SourceError("a", ""), "failure"),
    ],
)
def test_kinds(error, kind):
    assert kind_of(error) == kind


def test_one_failure_is_passed_on_as_it_is():
    error = MalformedMessage("alpha", "not JSON", "<html>")
    assert verdict("quotes_l1 of AAPL", {"alpha": error}) is error


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET /quote: HTTP 503:\n  busy", "GET /quote: HTTP 503: busy"),
        ("wss://ws.example?token=abc failed", "wss://ws.example?… failed"),
        ("http://me:pw@proxy:3128 refused", "http://…@proxy:3128 refused"),
        ("X-Finnhub-Token: abc", "X-Finnhub-Token: …"),
        ("Authorization: Bearer abc.def", "Authorization: …"),
        ('{"apikey":"abc","n":1}', '{"apikey":"…","n":1}'),
        ("no such symbol", "no such symbol"),
    ],
)
def test_what_looks_like_a_secret_is_cut_out(text, shown):
    assert redacted(text) == shown


@given(st.text(max_size=3_000))
def test_any_text_becomes_one_short_line(text):
    shown = redacted(text)
    assert len(shown) <= 300
    assert "\n" not in shown
    assert redacted(shown[:200]) is not None


def test_a_long_text_takes_no_long_time():
    assert len(redacted("token-" * 1_000_000)) == 300
