from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.transport.odd_server import OddServer, odd_server
from tests.transport.support import FAMILIES, opened


@pytest.fixture
def odd() -> Iterator[OddServer]:
    """A server that does what the test says."""
    with odd_server() as server:
        yield server


@pytest.fixture(autouse=True)
def _close_clients() -> Iterator[None]:
    yield
    while opened:
        opened.pop().close()


@pytest.fixture(params=FAMILIES)
def family_name(request: pytest.FixtureRequest) -> str:
    """Each httpx family that is installed."""
    return str(request.param)
