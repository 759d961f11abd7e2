"""Pools, servers and clients for the tests of the transport."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from tenacity import wait_none

import quotafleet.openai
from quotafleet import KeyPool, Organization, RetryPolicy
from quotafleet.testing import MockFleet, MockServer, MockSettings, serve

MODEL = "gpt-4o-mini"
ASK: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}]}
FAMILIES = [name for name in ("httpx", "httpx2") if find_spec(name)]
PLENTY = {"rpm": 10_000, "tpm": 10_000_000}


opened: list[quotafleet.openai.OpenAI] = []


class OpenAI(quotafleet.openai.OpenAI):
    """The client under test; each is closed after its test, or its sockets would complain."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        opened.append(self)


AsyncOpenAI = quotafleet.openai.AsyncOpenAI  # whose connections are closed with the test's loop


def pool_at(base_url: str, *names: str, **options: Any) -> KeyPool:
    """Return a pool of organizations with one key each, ``sk-<name>-0123456789abcdef``."""
    options.setdefault("retry", RetryPolicy(wait=wait_none()))
    organizations = [
        Organization(name=name, keys=(secret(name),), base_url=base_url) for name in names
    ]
    return KeyPool(organizations, strategy="round-robin", **options)


def secret(name: str) -> str:
    return f"sk-{name}-0123456789abcdef"


@contextmanager
def mock(
    orgs: dict[str, dict[str, int]] | None = None, **settings: Any
) -> Iterator[tuple[MockServer, KeyPool]]:
    """Serve organizations, and return a pool of all their keys."""
    fleet = MockFleet.simple(orgs or {"a": PLENTY, "b": PLENTY})
    with serve(fleet, settings=MockSettings(**settings)) as server:
        yield server, mock_pool(server)


def mock_pool(server: MockServer, **options: Any) -> KeyPool:
    """Return a pool of a mock's keys."""
    fleet = server.provider.fleet
    owners = {project.id: project.org for project in fleet.projects}
    options.setdefault("retry", RetryPolicy(wait=wait_none()))
    options.setdefault("strategy", "round-robin")
    organizations = [
        Organization(
            name=org.id.removeprefix("org-"),
            keys=tuple(key.secret for key in fleet.keys if owners[key.project] == org.id),
            base_url=server.base_url,
        )
        for org in fleet.orgs
    ]
    return KeyPool(organizations, **options)


def admitted(server: MockServer) -> dict[str, int]:
    """Return how many requests the provider admitted with each key."""
    keys: Any = server.provider.state()["keys"]
    return {name: told["admitted"] for name, told in keys.items()}


def until(true: Callable[[], bool], within: float = 5.0) -> None:
    """Wait for what another thread is about to do."""
    end = time.monotonic() + within
    while not true():
        if time.monotonic() > end:
            raise AssertionError("it did not happen in time")
        time.sleep(0.005)


def idle(pool: KeyPool) -> bool:
    """Whether no lease is open."""
    return pool.status().in_flight == 0


def everything_told(error: BaseException) -> str:
    """Return an exception as the most talkative of reports would show it, with local variables."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "".join(told.format(chain=True))


def leaks(told: str) -> bool:
    """Whether a text holds a secret; not written in the test, whose own frames are told too."""
    return secret("")[-16:] in told


def logged(caplog: Any) -> str:
    return "\n".join(logging.Formatter().format(record) for record in caplog.records)
