"""The examples run as they are, over the mock."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"
PRINTS = {
    "litellm_router.py": ["122 answers", "org-0:", "0 refused"],
    "litellm_calls.py": ["2 embeddings"],
    "litellm_dspy.py": ["122 answers, such as: A group under one command.", "acme-1:", "globex-1:"],
}


def test_each_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("litellm_*.py")} == set(PRINTS)


@pytest.mark.parametrize("name", PRINTS)
def test_example_runs(name: str, tmp_path: Path) -> None:
    inherited = {
        k: v for k, v in os.environ.items() if not k.startswith(("OPENAI_", "QUOTAFLEET_"))
    }
    done = subprocess.run(
        [sys.executable, EXAMPLES / name],
        cwd=tmp_path,
        env=inherited,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for words in PRINTS[name]:
        assert words in done.stdout, done.stdout
