"""Each example runs to its end, as a reader would start it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
#: What each must print: that it did what it is there for.
PRINTS = {
    "quickstart.py": ["birch#1:", "acme#2:", "0 refused"],
    "async_batch.py": ["130 calls, 0 not answered", "cedar#1:"],
    "status.py": ["told at once:", "event: Leased(key_id='birch#1'", "0 in flight, 0 waiting"],
}


def test_each_example_is_run() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}
    # Those of an adapter are run by its own tests, where its framework is.
    own = {name for name in names if name.startswith(("langchain_", "litellm_"))}
    assert names - own == set(PRINTS)


@pytest.mark.parametrize("name", PRINTS)
def test_example_runs(name: str, tmp_path: Path) -> None:
    inherited = {
        k: v for k, v in os.environ.items() if not k.startswith(("OPENAI_", "QUOTAFLEET_"))
    }
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
