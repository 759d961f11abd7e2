"""Each example runs to its end, as a reader would start it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
#: What each must print: that it did what it is there for.
PRINTS = {
    "quickstart.py": ["birch#1:", "acme#2:", "0 refused"],
    "async_batch.py": ["130 calls, 0 not answered", "cedar#1:"],
    "status.py": ["told at once:", "event: Leased(key_id='birch#1'", "0 in flight, 0 waiting"],
    "custom_strategy.py": ["prepaid#1", "metered#1"],
    "custom_provider.py": ["fast-2026-02 sends x-gateway-key", "families: fast\n"],
    "fastapi_app.py": ["20 calls answered by"],
}


def test_each_example_is_run() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}
    # Those of an adapter are run by its own tests, where its framework is.
    own = {name for name in names if name.startswith(("langchain_", "litellm_"))}
    assert names - own == set(PRINTS)


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """A Redis server of the test's own, on a socket in its folder."""
    command = shutil.which("redis-server")
    if command is None:
        pytest.skip("no redis-server on PATH")
    path = tmp_path / "redis.sock"
    arguments = ["--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen([command, *arguments], stdout=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 10
            while not path.exists():
                assert time.monotonic() < deadline, "redis-server did not start"
                time.sleep(0.02)
            yield f"unix://{path}"
        finally:
            server.terminate()


@pytest.mark.parametrize("name", PRINTS)
def test_example_runs(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    inherited = {
        k: v for k, v in os.environ.items() if not k.startswith(("OPENAI_", "QUOTAFLEET_"))
    }
    if "REDIS_URL" in (EXAMPLES / name).read_text():
        inherited["REDIS_URL"] = request.getfixturevalue("redis_url")
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name],
        cwd=tmp_path,
        env=inherited,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    for words in PRINTS[name]:
        assert words in done.stdout, done.stdout
