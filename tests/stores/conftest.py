"""One real server for the tests of a file, with a fresh namespace for each store."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.stores.redis_kit import TestServer, serving


@pytest.fixture(scope="module")
def server() -> Iterator[TestServer]:
    with serving() as running:
        yield running
