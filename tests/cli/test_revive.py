"""`quotafleet revive` puts back into use, in all processes, what a fleet leaves alone."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from tests.stores.redis_kit import TestServer, serving
from tests.stores.test_redis_health import eventually
from typer.testing import CliRunner, Result

from quotafleet import Demand, KeyPool, Limits, Organization
from quotafleet.outcomes import Kind, Outcome
from quotafleet.stores.redis import RedisStore, read_fleet

SECRET = "sk-proj-abcdefghijklmnop0123456789"
NAMES = count()
CALL = Demand(model="gpt-4o-mini")


@pytest.fixture(scope="module")
def server() -> Iterator[TestServer]:
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("QUOTAFLEET_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def namespace() -> str:
    return f"revive-{next(NAMES)}"


def revive(*arguments: object) -> Result:
    from quotafleet.cli._app import app

    done = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(
        app, ["revive", *map(str, arguments)]
    )
    assert SECRET not in done.output
    return done


def pool_of(server: TestServer, namespace: str) -> KeyPool:
    owners = [
        Organization(name="acme", keys=(SECRET,), limits=Limits(rpm=600)),
        Organization(name="birch", keys=(SECRET + "2",), limits=Limits(rpm=600)),
    ]
    store = RedisStore(server.url, namespace=namespace)
    return KeyPool(owners, store=store, strategy="round-robin")


def fail(pool: KeyPool, owner: str, outcome: Outcome) -> None:
    while True:
        lease = pool.lease(CALL)
        if lease.owner == owner:
            lease.fail(outcome)
            return
        lease.release()


BROKE = Outcome(kind=Kind.QUOTA_EXHAUSTED, scope="organization", code="insufficient_quota")
REVOKED = Outcome(kind=Kind.KEY_INVALID, code="invalid_api_key")


def sick(pool: KeyPool) -> set[str]:
    return {one.subject for one in pool.status().unavailable}


def test_all_processes_use_again_what_is_revived(server: TestServer, namespace: str) -> None:
    with pool_of(server, namespace) as one, pool_of(server, namespace) as two:
        two.lease(CALL).release()
        fail(one, "birch", REVOKED)
        fail(one, "acme", BROKE)
        both = {"key birch#1", "organization acme"}
        eventually(lambda: sick(one) == sick(two) == both)
        place = ("--store", server.url, "--namespace", namespace)
        done = revive("acme", *place)
        assert done.exit_code == 0
        assert "organization acme is in use again" in done.output
        eventually(lambda: sick(one) == sick(two) == {"key birch#1"})
        (key,) = [h.subject for h in read_fleet(server.url, namespace).health]
        assert revive(key.removeprefix("key ")[:6], *place).exit_code == 0
        eventually(lambda: sick(one) == sick(two) == set())
        assert len(read_fleet(server.url, namespace).processes) == 2, "it is none of them"


def test_what_is_not_left_alone_is_said(server: TestServer, namespace: str) -> None:
    with pool_of(server, namespace) as pool:
        fail(pool, "acme", BROKE)
        eventually(lambda: len(read_fleet(server.url, namespace).health) == 1)
        place = ("--store", server.url, "--namespace", namespace)
        assert revive("birch", *place).exit_code == 1
        assert sick(pool) == {"organization acme"}
        done = revive("--all", *place)
        assert (done.exit_code, "1 subject" in done.output) == (0, True)
        eventually(lambda: not sick(pool))
        assert revive("--all", *place).exit_code == 1


def test_what_is_wrong_is_told_in_a_line(server: TestServer, namespace: str) -> None:
    for arguments, told in (
        (("acme", "--store", server.url, "--namespace", "nowhere"), "holds no fleet"),
        (("--store", server.url), "what is to be revived"),
        (("acme", "--all", "--store", server.url), "what is to be revived"),
        (("acme",), "no configuration"),
        (("acme", "--store", "redis://:hidden@127.0.0.1:1/0"), "could not answer"),
        (("acme", "--store", "env:NOT_SET"), "not set"),
    ):
        done = revive(*arguments)
        assert done.exit_code == 2, done.output
        assert told in done.output
        assert "hidden" not in done.output
