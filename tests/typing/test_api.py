"""mypy --strict over `api.py`: what is right passes, what is wrong does not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

API = Path(__file__).with_name("api.py")
ROOT = API.parents[2]


def test_face_is_typed_as_the_file_says() -> None:
    cache = ROOT / ".mypy_cache" / "api"  # a run beside it has another
    command: list[str | Path] = [sys.executable, "-m", "mypy", "--cache-dir", cache, API]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
