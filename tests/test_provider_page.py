"""docs/providers.md is what the providers and their tests say."""

from __future__ import annotations

import pytest

import provider_page
from marketd.sources.registry import BUILT_IN


def test_the_page_is_what_the_providers_and_their_tests_say() -> None:
    assert provider_page.PAGE.read_text("utf-8") == provider_page.page(), (
        "make it anew: .venv/bin/python tests/provider_page.py > docs/providers.md"
    )


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_provider_has_a_referee_that_its_test_names(name: str) -> None:
    text = (provider_page.TESTS / "sources" / f"test_{name}_referee.py").read_text("utf-8")
    assert [referee for referee in provider_page.REFEREES[name] if referee.partition(" (")[0] not in text] == []
    assert provider_page.sentences(name)


@pytest.mark.parametrize("name", provider_page.RECORDED)
def test_what_is_recorded_is_read(name: str) -> None:
    text = (provider_page.TESTS / "sources" / provider_page.RECORDED[name]).read_text("utf-8")
    assert name in text
    assert "data_folder" in text


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_provider_is_fuzzed_in_all_that_it_can(name: str) -> None:
    can = provider_page.capabilities(provider_page.provider_entry(name))
    mine = {target.partition(".")[2] for target in provider_page.targets_of(name)}
    if can.stream_quotes or can.stream_trades:
        assert mine & {"stream", "push3011"}
    asked = sum((can.quotes, bool(can.bars), can.options, can.macro, can.actions))
    assert len(mine) >= asked
