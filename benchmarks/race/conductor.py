"""Runs contenders in turn, each in a process of its own, over one provider in another."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.race.result import Result, taken
from benchmarks.race.scenarios import Scenario

from quotafleet.testing import ServerProcess, serve_process

ROOT: Final = Path(__file__).parents[2]
#: A contender that isn't done after so many times the bound has lost what is left.
LIMIT: Final = 1.5
#: Seconds that importing and warming up may take on a busy machine.
WARM_UP: Final = 60.0
#: What the provider answers that is no refusal of a limit.
_OTHER: Final = frozenset({"quota", "invalid_api_key", "server_error", "invalid_request"})


def run(contender: str, scenario: Scenario, seconds: float) -> tuple[Result, dict[str, int]]:
    """Race one contender; return its result, and the errors that its lost calls ended with."""
    limit = LIMIT * max(scenario.bound(), seconds) + 5.0
    with serve_process(scenario.fleet(), scenario.settings) as server:
        arguments = [contender, scenario.name, str(seconds), server.base_url, str(limit)]
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.race.contestant", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            told = _raced(process, scenario, server, limit)
            state: Any = server.state()
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
    return _result(scenario, told, state), told["errors"]


def _raced(
    process: subprocess.Popen[str], scenario: Scenario, server: ServerProcess, limit: float
) -> dict[str, Any]:
    assert process.stdin is not None
    if _line(process, WARM_UP) != "ready":
        return _nothing("did not start")
    server.reset()
    if scenario.faults:
        server.control("POST", "faults", list(scenario.faults))
    process.stdin.write("go\n")
    process.stdin.flush()
    line = _line(process, limit + 20.0)
    return json.loads(line) if line else _nothing("died or hung")  # type: ignore[no-any-return]


def _line(process: subprocess.Popen[str], timeout: float) -> str:
    """Return the process's next line; "" = none came in time, or it has ended."""
    assert process.stdout is not None
    deadline = time.monotonic() + timeout
    while select.select([process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
        line = process.stdout.readline()
        if not line or line.startswith(("ready", "{")):
            return line.strip()
    return ""


def _nothing(why: str) -> dict[str, Any]:
    return {"seconds": 0.0, "answered": 0, "delays": [], "cpu": 0.0, "errors": {why: 1}}


def _result(scenario: Scenario, told: dict[str, Any], state: dict[str, Any]) -> Result:
    refused = sum(
        count
        for key in state["keys"].values()
        for reason, count in key["rejected"].items()
        if reason not in _OTHER
    )
    own = scenario.settings.ttft_s
    return Result(
        seconds=told["seconds"],
        bound=scenario.bound(taken(scenario, state)),
        answered=told["answered"],
        lost=len(scenario.jobs) - told["answered"],
        refused=refused,
        delays=tuple(delay - own for delay in told["delays"]),
        cpu=told["cpu"],
    )
