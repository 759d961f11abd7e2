"""`quotafleet status` shows a live fleet, tells what is wrong in one line, and never a password."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.stores.redis_kit import TestServer, serving
from typer.testing import CliRunner, Result

from quotafleet import Demand, KeyPool, Limits, Organization
from quotafleet.outcomes import Kind, Outcome
from quotafleet.stores.redis import RedisStore

SECRET = "sk-proj-abcdefghijklmnop0123456789"
PASSWORD = "pass-word-of-tests"


@pytest.fixture(scope="module")
def server() -> Iterator[TestServer]:
    with serving("--requirepass", PASSWORD) as running:
        yield running


@pytest.fixture(scope="module")
def url(server: TestServer) -> str:
    return f"redis://:{PASSWORD}@127.0.0.1:{server.port}/0"


@pytest.fixture(scope="module")
def pool(url: str) -> Iterator[KeyPool]:
    acme = Organization(name="acme [red]", keys=(SECRET,), limits=Limits(rpm=600, concurrent=5))
    with KeyPool([acme], store=RedisStore(url, namespace="team")) as made:
        made.lease(Demand(model="gpt-4o-mini"))
        broke = Outcome(kind=Kind.QUOTA_EXHAUSTED, scope="organization", code="insufficient_quota")
        made.lease(Demand(model="gpt-4o-mini")).fail(broke)
        made.store.flush()  # type: ignore[attr-defined]
        made.store._health._exchange()  # type: ignore[attr-defined]
        yield made


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("QUOTAFLEET_CONFIG", "OPENAI_API_KEYS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def status(*arguments: object) -> Result:
    from quotafleet.cli._app import app

    runner = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"})
    done = runner.invoke(app, ["status", *map(str, arguments)])
    assert PASSWORD not in done.output
    assert "wrong-one" not in done.output
    assert SECRET[8:20] not in done.output
    return done


def test_tables_show_scopes_levels_health_and_processes(pool: KeyPool, url: str) -> None:
    done = status("--store", url, "--namespace", "team")
    assert done.exit_code == 0, done.output
    for shown in (
        *("team: processes 1, calls in flight 1", "acme [red]", "gpt-4o-mini", "rpm", "600"),
        *("concurrent", "parked", "insufficient_quota", str(os.getpid())),
    ):
        assert shown in done.output, shown


def test_json_has_a_stable_shape(pool: KeyPool, url: str) -> None:
    told = json.loads(status("--store", url, "--namespace", "team", "--json").output)
    assert told["shape"] == 1
    assert set(told) == {
        *("shape", "namespace", "scopes", "owners", "health", "merges", "processes")
    }
    level = told["scopes"][0]["levels"][0]
    assert set(level) == {
        *("scope", "name", "limit", "available", "booked", "refills_per_second", "throttle"),
        "learned",
    }
    assert set(told["owners"][0]) == {"organization", "in_flight", "waiting_processes"}
    assert set(told["health"][0]) == {"subject", "state", "reason", "retry_after"}
    assert set(told["processes"][0]) == {
        *("process", "host", "pid", "runs_for", "in_flight", "waiting")
    }
    assert told["owners"] == [
        {"organization": "acme [red]", "in_flight": 1, "waiting_processes": 0}
    ]


def test_the_store_comes_from_a_configuration_whose_keys_are_not_there(
    pool: KeyPool, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATUS_STORE", url)
    file = tmp_path / "quotafleet.toml"
    file.write_text(
        'store = { url = "env:STATUS_STORE", namespace = "team" }\n'
        '[[organizations]]\nname = "acme"\nkeys = ["env:NOT_SET_ANYWHERE"]\n'
    )
    for arguments in ((file,), (), ("--store", "env:STATUS_STORE", "--namespace", "team")):
        done = status(*arguments)
        assert done.exit_code == 0, done.output
        assert "acme" in done.output


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('store = "memory"', "the store is in each process's memory"),
        ('store = "env:NOT_SET"', "NOT_SET is not set"),
        ("store = 5", "store"),
    ],
)
def test_a_configuration_without_a_shared_store_is_told(
    text: str, shown: str, tmp_path: Path
) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(text)
    done = status(file)
    assert done.exit_code == 2
    assert shown in done.output


def test_what_is_wrong_is_one_message_and_exit_code_2(
    pool: KeyPool, url: str, server: TestServer, tmp_path: Path
) -> None:
    wrong = url.replace(PASSWORD, "wrong-one")
    away = f"redis://:{PASSWORD}@127.0.0.1:1/0"
    cases = [
        (("--store", url, "--namespace", "nowhere"), "There are: 'team'"),
        (("--store", url), "'default' holds no fleet"),
        (("--store", wrong), "AuthenticationError"),
        (("--store", away), "refused"),
        (("--store", "http://x"), "no scheme that is known"),
        (("--store", "env:NOT_SET"), "--store is empty"),
        ((tmp_path / "x.toml", "--store", url), "Leave one out"),
        ((), "there is no configuration"),
    ]
    for arguments, shown in cases:
        done = status(*arguments)
        assert done.exit_code == 2, (arguments, done.output)
        assert shown in done.output, (arguments, done.output)
        assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("form", "terminal"), [((), False), (("--json",), False), ((), True)], ids=str
)
def test_watching_shows_it_again_until_it_is_interrupted(
    pool: KeyPool, url: str, form: tuple[str, ...], terminal: bool
) -> None:
    command = [sys.executable, "-m", "quotafleet.cli", "status", "--namespace", "team", "--watch"]
    forced = {"FORCE_COLOR": "1"} if terminal else {}
    watching = subprocess.Popen(
        [*command, "--store", "env:STATUS_STORE", "--every", "0.1", *form],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "STATUS_STORE": url, "COLUMNS": "160", **forced},
    )
    try:
        assert watching.stdout is not None
        seen = 0
        while seen < 3:
            line = watching.stdout.readline()
            assert line, "it ended"
            assert PASSWORD not in line
            seen += '"shape"' in line or ": processes 1" in line
        watching.send_signal(signal.SIGINT)
        rest = watching.communicate(timeout=60)[0]
    finally:
        watching.kill()
        watching.wait()
        if watching.stdout is not None:
            watching.stdout.close()
    assert "Traceback" not in rest
    assert watching.returncode == 130
