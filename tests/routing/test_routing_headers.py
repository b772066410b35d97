"""What answers say of their limits. The examples are those of the providers' documentation, typed by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.routing.headers import Told, told

NOW_S = 1_763_700_000.0


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, Told()),
        (
            {"x-ratelimit-limit": "60", "x-ratelimit-remaining": "12", "x-ratelimit-reset": "1763700030"},
            Told(left=12, limit=60, reset_s=30.0),
        ),
        (
            {"x-ratelimit-limit": "200", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1763700030500"},
            Told(left=0, limit=200, reset_s=30.5),
        ),
        (
            {"ratelimit-limit": "100, 100;w=60", "ratelimit-remaining": "50", "ratelimit-reset": "20"},
            Told(left=50, limit=100, reset_s=20.0),
        ),
        ({"ratelimit": '"default";r=50;t=30'}, Told(left=50, reset_s=30.0)),
        ({"x-mbx-used-weight-1m": "5000", "x-mbx-used-weight": "5000"}, Told(used={60.0: 5000})),
        (
            {"x-ratelimit-limit-day": "800", "x-ratelimit-remaining-day": "790"},
            Told(used={86_400.0: 10}),
        ),
        ({"x-ratelimit-remaining": "12"}, Told()),
        ({"x-ratelimit-remaining": "12", "x-ratelimit-reset": "soon"}, Told()),
        ({"x-ratelimit-remaining": "-1", "x-ratelimit-reset": "5"}, Told()),
        ({"x-ratelimit-remaining": "1", "x-ratelimit-reset": "1763600000"}, Told(left=1, reset_s=0.0)),
        ({"x-ratelimit-remaining": "1", "x-ratelimit-reset": "999999999999999"}, Told(left=1, reset_s=86_400.0)),
        ({"x-mbx-used-weight-0m": "5"}, Told()),
    ],
)
def test_documented_headers(headers, expected):
    assert told(headers, NOW_S) == expected


names = st.sampled_from(
    [
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        "x-ratelimit-reset",
        "x-rate-limit-remaining-hour",
        "x-rate-limit-limit-hour",
        "ratelimit",
        "x-mbx-used-weight-1m",
        "x-mbx-used-weight-7d",
    ]
)


@given(st.dictionaries(names, st.one_of(st.text(max_size=40), st.integers().map(str), st.floats().map(str))))
def test_anything_is_understood_or_says_nothing(headers):
    said = told(headers, NOW_S)
    assert said.left is None or said.left >= 0
    assert 0 <= said.reset_s <= 86_400
    assert all(seconds > 0 and used >= 0 for seconds, used in said.used.items())
