"""A pytest plugin that writes down what came of each test, for `run.py` to compare.

`QUOTAFLEET_OUTCOMES` names the file: a JSON object, test -> ``passed``, ``failed``, ...
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

_KINDS = ("passed", "skipped", "xfailed", "xpassed", "failed", "error")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Write the outcomes; of a test that passed and then failed in its teardown, the failure."""
    stats = terminalreporter.stats
    outcomes = {report.nodeid: kind for kind in _KINDS for report in stats.get(kind, ())}
    Path(os.environ["QUOTAFLEET_OUTCOMES"]).write_text(json.dumps(outcomes), encoding="utf-8")
