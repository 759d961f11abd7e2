"""One real server for the tests of a file, with a fresh namespace for each store.

All that concerns a server is run over Redis and over Valkey, where they are installed.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.stores.redis_kit import ENGINES, TestServer, chosen, serving


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        metafunc.parametrize("engine", ENGINES, indirect=True, scope="module")


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    with chosen(request.param):
        yield request.param


@pytest.fixture(scope="module")
def server(engine: str) -> Iterator[TestServer]:
    with serving() as running:
        yield running


@pytest.fixture
def own(engine: str) -> Iterator[TestServer]:
    """A server that a test may stop."""
    with serving() as running:
        yield running
