"""`quotafleet batch` end to end, over HTTP: no line lost, none twice, whatever happens."""

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quotafleet._clock import SystemClock
from quotafleet.testing import MockFault, MockFleet, MockProvider, MockSettings, RequestMatch, serve

LIMITS = {"rpm": 60_000, "tpm": 10_000_000}


@pytest.fixture
def provider() -> MockProvider:
    fleet = MockFleet.simple({"acme": {**LIMITS, "keys": 2}, "birch": LIMITS})
    return MockProvider(fleet, clock=SystemClock(), settings=MockSettings(ttft_s=0.02))


@pytest.fixture
def base_url(provider: MockProvider) -> Iterator[str]:
    with serve(provider) as server:
        yield server.base_url


def line(custom_id: str, **body: object) -> str:
    messages = [{"role": "user", "content": f"say {custom_id}"}]
    return json.dumps(
        {
            "custom_id": custom_id,
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": "gpt-4o-mini", "messages": messages, **body},
        }
    )


class Batch:
    """A folder with a configuration, an input and an output, and the command over them."""

    def __init__(self, folder: Path, base_url: str) -> None:
        self.base_url = base_url
        self.source = folder / "in.jsonl"
        self.target = folder / "out.jsonl"
        self.config = folder / "fleet.toml"
        self.config.touch(mode=0o600)
        self.organizations(["acme-1", "acme-2"], ["birch-1"])

    def organizations(self, *keys: list[str], rpm: int = 60_000) -> None:
        self.config.write_text(
            "".join(
                f'[[organizations]]\nname = "org{number}"\nbase_url = "{self.base_url}"\n'
                f"keys = {json.dumps([f'sk-mock-{key}' for key in names])}\n"
                f"limits = {{ rpm = {rpm} }}\n"
                for number, names in enumerate(keys)
            )
        )

    def write(self, *lines: str) -> None:
        self.source.write_text("\n".join(lines) + "\n")

    def start(self, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", "-m", "quotafleet.cli", "batch"]
        command += [str(self.source), str(self.target), "--config", str(self.config), *options]
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "COLUMNS": "120"},
        )

    def run(self, *options: str) -> tuple[int, str, str]:
        with self.start(*options) as process:
            out, err = process.communicate(timeout=60)
        assert "Traceback" not in err, err
        assert "sk-mock-" not in out + err
        return process.returncode, out, err

    def lines(self) -> list[dict[str, object]]:
        return [json.loads(raw) for raw in self.target.read_bytes().splitlines()]

    def ids(self) -> Counter[object]:
        return Counter(one["custom_id"] for one in self.lines())


@pytest.fixture
def batch(tmp_path: Path, base_url: str) -> Batch:
    return Batch(tmp_path, base_url)


@contextmanager
def midway(batch: Batch, at_least: int, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Start a batch, and give it as soon as so many lines are written."""
    with batch.start(*options) as process:
        while not batch.target.exists() or batch.target.read_bytes().count(b"\n") < at_least:
            try:
                process.wait(timeout=0.005)
            except subprocess.TimeoutExpired:
                continue
            pytest.fail(f"it ended early: {process.communicate()}")
        yield process


def names(count: int) -> list[str]:
    return [f"r{number}" for number in range(count)]


def test_every_line_is_answered_once_in_the_batch_form(batch: Batch) -> None:
    batch.write(*map(line, names(60)))
    code, out, err = batch.run()
    assert code == 0, err
    assert batch.ids() == Counter(names(60))
    first = batch.lines()[0]
    assert set(first) == {"id", "custom_id", "response", "error"}
    assert first["error"] is None
    response = first["response"]
    assert isinstance(response, dict)
    assert response["status_code"] == 200
    assert response["request_id"].startswith("req_")
    assert response["body"]["choices"][0]["message"]["content"]
    assert "answered" in out
    assert "60" in out


def test_all_owners_are_used(batch: Batch, provider: MockProvider) -> None:
    batch.organizations(["acme-1"], ["birch-1"], rpm=40)
    batch.write(*map(line, names(60)))
    assert batch.run()[0] == 0
    admitted = provider.state()["keys"]
    assert isinstance(admitted, dict)
    assert min(admitted[name]["admitted"] for name in ("acme-1", "birch-1")) >= 20


def test_other_endpoints_go_where_their_line_says(batch: Batch) -> None:
    embed = {
        "custom_id": "e",
        "method": "POST",
        "url": "/v1/embeddings",
        "body": {"model": "text-embedding-3-small", "input": "star"},
    }
    batch.write(json.dumps(embed))
    assert batch.run()[0] == 0
    (one,) = batch.lines()
    assert one["response"]["body"]["data"][0]["embedding"]  # type: ignore[index]


def test_a_failed_line_keeps_its_answer_and_is_tried_again(batch: Batch) -> None:
    batch.write(line("a"), line("bad", messages=5), line("b"), line("c", model="no-such-model"))
    code, _, err = batch.run()
    assert code == 1
    assert "1 x 400" in err
    bad = next(one for one in batch.lines() if one["custom_id"] == "bad")
    assert bad["error"] is None
    assert bad["response"]["status_code"] == 400  # type: ignore[index]
    assert bad["response"]["body"]["error"]["message"]  # type: ignore[index]
    assert batch.ids() == Counter(["a", "b", "c", "bad"])
    batch.write(line("a"), line("bad"), line("b"), line("c"))
    assert batch.run()[0] == 0
    assert batch.ids() == Counter(["a", "b", "c", "bad"])


def test_failed_lines_can_be_kept(batch: Batch) -> None:
    batch.write(line("bad", messages=5))
    assert batch.run()[0] == 1
    before = batch.target.read_bytes()
    code, out, _ = batch.run("--keep-failed")
    assert code == 1
    assert "failed before, kept" in out
    assert batch.target.read_bytes() == before


def test_broken_lines_and_twins_are_reported_and_the_others_run(batch: Batch) -> None:
    batch.write(line("a"), "{", line("b"), line("a"), '{"custom_id": 5}')
    code, _, err = batch.run("--quiet")
    assert code == 1
    assert "line 2 is not JSON" in err
    assert "line 4 has the custom_id 'a' of line 1" in err
    assert "line 5 has no custom_id" in err
    assert batch.ids() == Counter(["a", "b"])


@pytest.mark.parametrize("kills", [1, 3])
def test_a_batch_that_was_killed_goes_on_without_losing_or_repeating_a_line(
    batch: Batch, kills: int
) -> None:
    batch.write(*map(line, names(150)))
    for kill in range(1, kills + 1):
        with midway(batch, 30 * kill, "--concurrency", "4") as process:
            process.kill()
        assert process.returncode == -signal.SIGKILL
    done = batch.ids()
    assert 30 * kills <= len(done) < 150
    code, _, err = batch.run()
    assert code == 0, err
    assert "resumed" in err
    assert batch.ids() == Counter(names(150))


def test_a_torn_last_line_is_repaired(batch: Batch) -> None:
    batch.write(*map(line, names(20)))
    assert batch.run()[0] == 0
    batch.target.write_bytes(batch.target.read_bytes()[:-100])
    code, _, err = batch.run()
    assert code == 0
    assert "torn" in err
    assert batch.ids() == Counter(names(20))


def test_a_finished_batch_sends_nothing(batch: Batch, provider: MockProvider) -> None:
    batch.write(*map(line, names(20)))
    assert batch.run()[0] == 0
    received = provider.received
    before = batch.target.read_bytes()
    assert batch.run()[0] == 0
    assert provider.received == received
    assert batch.target.read_bytes() == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_ends_it_in_good_order(batch: Batch, number: int, code: int) -> None:
    batch.write(*map(line, names(150)))
    with midway(batch, 30, "--concurrency", "4") as process:
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert "Traceback" not in err
    assert "run the same command again" in err
    assert 30 <= len(batch.ids()) < 150
    assert batch.run()[0] == 0
    assert batch.ids() == Counter(names(150))


def test_a_second_ctrl_c_ends_it_at_once(batch: Batch, provider: MockProvider) -> None:
    batch.organizations(["birch-1"], rpm=30)
    batch.write(*map(line, names(60)))
    with midway(batch, 25) as process:
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)  # the grace of those that wait for headroom
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=3)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert max(batch.ids().values()) == 1


def test_faults_on_the_way_lose_no_line(batch: Batch, provider: MockProvider) -> None:
    for action in ("500", "reset_conn", "429_rpm"):
        provider.inject(MockFault(action=action, match=RequestMatch(key="acme-1"), times=5))
    batch.write(*map(line, names(60)))
    code, _, err = batch.run()
    assert code == 0, err
    assert batch.ids() == Counter(names(60))


def test_when_every_key_is_dead_it_stops_and_can_go_on(
    batch: Batch, provider: MockProvider
) -> None:
    for name in ("acme-1", "acme-2", "birch-1"):
        provider.revoke(name)
    batch.write(*map(line, names(100)))
    code, _, err = batch.run()
    assert code == 1
    assert "no key can be used any more" in err
    assert len(batch.lines()) < 100
    for name in ("acme-1", "acme-2", "birch-1"):
        provider.revoke(name, revoked=False)
    assert batch.run()[0] == 0
    assert batch.ids() == Counter(names(100))


def test_a_line_that_could_wait_too_long_fails_in_the_error_form(
    batch: Batch, provider: MockProvider
) -> None:
    batch.organizations(["birch-1"], rpm=10)
    batch.write(*map(line, names(12)))
    code, _, err = batch.run("--wait-timeout", "0.5")
    assert code == 1
    failed = [one for one in batch.lines() if one["error"] is not None]
    assert len(failed) == 2
    assert failed[0]["response"] is None
    assert failed[0]["error"]["code"] == "wait_timeout"  # type: ignore[index]
    assert "2 x wait_timeout" in err


# Bad input


def test_a_wrong_configuration_is_exit_code_2_and_touches_nothing(batch: Batch) -> None:
    batch.write(line("a"))
    batch.config.write_text('strategy = "no"')
    code, _, err = batch.run()
    assert code == 2
    assert "unknown strategy 'no'" in err
    assert not batch.target.exists()


def test_a_missing_input_is_exit_code_2_and_touches_nothing(batch: Batch) -> None:
    code, _, err = batch.run()
    assert code == 2
    assert "in.jsonl: No such file" in err
    assert not batch.target.exists()


def test_the_input_is_no_output(batch: Batch) -> None:
    batch.write(line("a"))
    batch.target.symlink_to(batch.source)
    code, _, err = batch.run()
    assert code == 2
    assert "is the input and the output" in err


def test_something_else_is_no_output(batch: Batch) -> None:
    batch.write(line("a"))
    batch.target.write_text("precious notes")
    code, _, err = batch.run()
    assert code == 2
    assert "not the output of a batch" in err
    assert batch.target.read_text() == "precious notes"


def test_an_output_that_cannot_be_made_is_exit_code_2(batch: Batch) -> None:
    batch.write(line("a"))
    batch.target = batch.target / "deeper"
    code, _, err = batch.run()
    assert code == 2
    assert "No such file or directory" in err


def test_lines_of_another_input_are_warned_of(batch: Batch) -> None:
    batch.write(line("other"))
    assert batch.run()[0] == 0
    batch.write(line("a"))
    code, _, err = batch.run()
    assert code == 0
    assert "1 line of the output stand" in err or "1 line of the output" in err


def test_quiet_says_nothing_when_all_is_well(batch: Batch) -> None:
    batch.write(line("a"))
    assert batch.run("--quiet") == (0, "", "")
