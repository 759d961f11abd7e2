"""One contender's process: says when it is ready, waits for the word, races, and tells the end.

    python -m benchmarks.race.contestant CONTENDER SCENARIO SECONDS BASE_URL TIME_LIMIT

Prints ``ready``, reads a line, and prints a line of JSON: seconds, answered, delays, CPU seconds.
What isn't answered within the time limit counts as lost.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
import warnings

from benchmarks.race.contenders import CONTENDERS, Ask
from benchmarks.race.scenarios import AT_A_TIME, SCENARIOS, Job


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def race(ask: Ask, jobs: tuple[Job, ...], limit: float) -> dict[str, object]:
    """Send all jobs, each at its instant; return how it went."""
    began, cpu = time.monotonic(), _cpu()
    ended: list[float] = []
    delays: list[float] = []
    errors: dict[str, int] = {}
    places = asyncio.Semaphore(AT_A_TIME)

    async def one(job: Job) -> None:
        await asyncio.sleep(max(0.0, began + job.at - time.monotonic()))
        try:
            async with places:
                await ask(job)
        except Exception as error:  # whatever it is, the call is lost
            errors[type(error).__name__] = errors.get(type(error).__name__, 0) + 1
            return
        now = time.monotonic()
        ended.append(now - began)
        delays.append(now - began - job.at)

    tasks = [asyncio.create_task(one(job)) for job in jobs]
    _done, late = await asyncio.wait(tasks, timeout=limit)
    used = _cpu() - cpu
    if late:
        errors["unanswered"] = len(late)
    return {
        "seconds": max(ended, default=limit),
        "answered": len(ended),
        "delays": sorted(delays),
        "cpu": used,
        "errors": errors,
    }


def main() -> None:
    """Race as the command line says."""
    contender, name, seconds, base_url, limit = sys.argv[1:]
    warnings.simplefilter("ignore")
    scenario = SCENARIOS[name](float(seconds))

    async def run() -> dict[str, object]:
        ask = CONTENDERS[contender][1](scenario, base_url)
        # One call each, so that what is imported and compiled at the first isn't raced.
        await asyncio.wait([asyncio.create_task(_tried(ask))], timeout=10.0)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        again = CONTENDERS[contender][1](scenario, base_url)
        return await race(again, scenario.jobs, float(limit))

    print(json.dumps(asyncio.run(run())), flush=True)
    sys.stdout.flush()
    os._exit(0)  # threads and tasks that never end must not hold it


async def _tried(ask: Ask) -> None:
    try:
        await ask(Job(0.0, 40))
    except Exception:  # it is only to warm up
        pass


if __name__ == "__main__":
    main()
