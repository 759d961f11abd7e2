"""A mock provider with three owners, and a pool over it."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable, Iterator

import pytest

from quotafleet import KeyPool, Limits, Organization
from quotafleet._clock import SystemClock
from quotafleet.testing import MockFleet, MockProvider, MockServer, serve

pytest.importorskip("langchain_openai")

RATES = {"rpm": 60_000, "tpm": 10_000_000}
NAMES = ("acme", "birch", "cedar")
MODEL = "gpt-4o-mini"

#: LangChain and what it stands on speak of things that are not ours to change.
IGNORED = (
    "ignore::langchain_core._api.beta_decorator.LangChainBetaWarning",
    "ignore::langchain_core._api.deprecation.LangChainDeprecationWarning",
    "ignore:Pydantic serializer warnings:UserWarning",
    "ignore:unclosed:ResourceWarning",  # stock never closes the clients that it shares
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = os.path.dirname(__file__)
    for item in items:
        if str(item.path).startswith(here):
            for warning in IGNORED:
                item.add_marker(pytest.mark.filterwarnings(warning))


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """No key, no configuration and no tracing but what a test gives."""
    for name in os.environ:
        if name.startswith(("OPENAI_", "AZURE_OPENAI_", "QUOTAFLEET_", "LANGSMITH_", "LANGCHAIN_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(str(tmp_path))


@pytest.fixture(scope="module", autouse=True)
def clients_left_open() -> Iterator[None]:
    """Drop the clients that stock and models keep open for the process, while that is no error."""
    yield
    from langchain_openai.chat_models import _client_utils

    from langchain_quotafleet import _api_keys, _callable_keys

    _client_utils._cached_sync_httpx_client.cache_clear()
    _client_utils._cached_async_httpx_client.cache_clear()
    _api_keys._of_one.cache_clear()
    _api_keys.of_keys.cache_clear()
    _callable_keys._of_function.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def provider() -> MockProvider:
    return MockProvider(MockFleet.simple(dict.fromkeys(NAMES, RATES)), clock=SystemClock())


@pytest.fixture
def server(provider: MockProvider) -> Iterator[MockServer]:
    with serve(provider) as server:
        yield server


PoolOf = Callable[..., KeyPool]


@pytest.fixture
def pool_of(server: MockServer) -> PoolOf:
    """Return a pool of some owners of the mock; what else is given goes to `KeyPool`."""

    def make(*names: str, limits: Limits | None = None, **options: object) -> KeyPool:
        organizations = [
            Organization(
                name=name,
                keys=(f"sk-mock-{name}-1",),
                base_url=server.base_url,
                limits=limits or Limits(**RATES),
            )
            for name in names or NAMES
        ]
        return KeyPool(organizations, **options)  # type: ignore[arg-type] # a test's own business

    return make


@pytest.fixture
def pool(pool_of: PoolOf) -> KeyPool:
    return pool_of()
