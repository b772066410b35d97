"""One server for all tests of the REST doors: its clock stands still, so nobody can change what another reads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from rest_door import Door, serving


@pytest.fixture(scope="session")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with serving(tmp_path_factory.mktemp("data")) as door:
        yield door
