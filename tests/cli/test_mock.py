"""`quotafleet mock` runs a provider that the printed variables reach."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

FLEET = """
[orgs.acme]
limits = { "*" = { rpm = 500, tpm = 200000 } }
keys = { acme-1 = "sk-mock-acme-1", hidden = "sk-proj-secret-of-somebody" }
"""


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "quotafleet.cli", "mock", *map(str, arguments)]


@contextmanager
def mock(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run it, and give the process and what it printed until it listened."""
    process = subprocess.Popen(
        command("--port", 0, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "120"},
    )
    assert process.stdout is not None
    text = ""
    with process:
        try:
            while "OPENAI_API_KEYS" not in text:
                line = process.stdout.readline()
                assert line, text
                text += line
            yield process, text
        finally:
            process.kill()


def test_the_printed_variables_reach_it_and_ctrl_c_ends_it() -> None:
    with mock() as (process, text):
        base_url = re.search(r"OPENAI_BASE_URL=(\S+)", text)
        keys = re.search(r"OPENAI_API_KEYS=(\S+)", text)
        assert base_url is not None
        assert keys is not None
        secret = keys[1].split(",")[0]
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
        request = Request(
            f"{base_url[1]}/chat/completions",
            json.dumps(body).encode(),
            {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"},
        )
        with urlopen(request) as answer:
            assert json.load(answer)["choices"]
        assert "acme" in text
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "stopped" in out
    assert "Traceback" not in out


def test_a_fleet_of_a_file_is_served_and_secrets_that_may_be_real_are_not_shown(
    tmp_path: Path,
) -> None:
    file = tmp_path / "fleet.toml"
    file.write_text(FLEET)
    with mock("--fleet", file) as (_, text):
        assert "org-acme" in text
        assert "*: rpm 500, tpm 200,000" in text
        assert "sk-mock-acme-1" in text
        assert "secret-of-somebody" not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [("[orgs", "TOML"), ("[orgs.a]\nlimit = 5", "limit"), (None, "No such file")],
)
def test_a_wrong_fleet_is_one_message_and_exit_code_2(
    tmp_path: Path, text: str | None, shown: str
) -> None:
    file = tmp_path / "fleet.toml"
    if text is not None:
        file.write_text(text)
    done = subprocess.run(
        command("--fleet", file), capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 2
    assert shown in done.stderr or shown in done.stderr.replace("\n", " ")
    assert "fleet.toml" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_one_message_and_exit_code_2() -> None:
    with mock() as (_, text):
        port = re.search(r"127\.0\.0\.1:(\d+)", text)
        assert port is not None
        done = subprocess.run(
            command("--port", port[1]), capture_output=True, text=True, check=False, timeout=30
        )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert port[1] in done.stderr or "in use" in done.stderr
