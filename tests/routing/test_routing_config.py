"""The section `routing`: what is accepted, and that what is not is named."""

from __future__ import annotations

import msgspec
import pytest

from marketd.errors import InvalidInput
from marketd.routing import (
    BreakerConfig,
    HealthConfig,
    QuotaConfig,
    RoutingConfig,
    SharesConfig,
    WaitsConfig,
)
from marketd.sources.contract import Limit


def test_the_defaults_that_are_documented_elsewhere():
    config = RoutingConfig()
    assert (config.usable_above, config.allow_source_override) == (0.55, False)
    assert (config.attempt_live_s, config.attempt_s) == (2.0, 30.0)
    assert config.policy("bars_1m") is None


def test_policies_are_lists_or_texts_with_commas():
    given = {"policies": {"bars_1m": "finnhub, AlphaVantage,yfinance", "eod": ["yahoo", "*"]}}
    config = msgspec.convert(given, RoutingConfig)
    assert config.policy("bars_1m") == ("finnhub", "alphavantage", "yfinance")
    assert config.policy("eod") == ("yahoo", "*")
    again = msgspec.convert(msgspec.to_builtins(config), RoutingConfig)
    assert again == config


@pytest.mark.parametrize(
    ("kind", "values", "field"),
    [
        (RoutingConfig, {"policies": {"bars_5m": "yahoo"}}, "policies.bars_5m"),
        (RoutingConfig, {"policies": {"eod": ""}}, "policies.eod"),
        (RoutingConfig, {"policies": {"eod": "yahoo,,ig"}}, "policies.eod"),
        (RoutingConfig, {"policies": {"eod": ()}}, "policies.eod"),
        (RoutingConfig, {"usable_above": 1.0}, "usable_above"),
        (RoutingConfig, {"usable_above": float("nan")}, "usable_above"),
        (RoutingConfig, {"attempt_live_s": 0.0}, "attempt_live_s"),
        (RoutingConfig, {"recover_s": -1.0}, "recover_s"),
        (BreakerConfig, {"failures": 0}, "failures"),
        (BreakerConfig, {"open_first_s": 10.0, "open_max_s": 5.0}, "open_max_s"),
        (HealthConfig, {"latency_good_ms": 5_000.0}, "latency_bad_ms"),
        (HealthConfig, {"call_weight": 0.0}, "call_weight"),
        (QuotaConfig, {"per_s": 0}, "per_s"),
        (QuotaConfig, {"limits": (Limit(count=0, seconds=1.0),)}, "limits.count"),
        (QuotaConfig, {"limits": (Limit(count=1, seconds=0.0),)}, "limits.seconds"),
        (QuotaConfig, {"per_s": 1, "limits": (Limit(count=2, seconds=1.0),)}, "limits"),
        (QuotaConfig, {"weights": {"bars": -1}}, "weights.bars"),
        (SharesConfig, {"sweep": 0.4}, "backfill"),
        (WaitsConfig, {"live": -1.0}, "live"),
    ],
)
def test_a_setting_that_cannot_be_is_named(kind, values, field):
    with pytest.raises(InvalidInput) as caught:
        kind(**values)
    assert caught.value.field == field


def test_a_setting_that_does_not_exist_is_refused():
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"policy": {}}, RoutingConfig)


def test_quotas_by_window():
    quota = QuotaConfig(per_s=30, per_minute=60, limits=(Limit(count=10, seconds=30.0, endpoint="chain"),))
    assert [(limit.count, limit.seconds, limit.endpoint) for limit in quota.given] == [
        (30, 1.0, None),
        (60, 60.0, None),
        (10, 30.0, "chain"),
    ]
