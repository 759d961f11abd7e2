"""quotafleet against what people use today, scenario by scenario.

    python -m benchmarks.race [--scenario NAME] [--contender NAME] [--quick] [--seconds S] [--write]

Prints a line for each race; `--write` makes `docs/race.md`, `docs/race.png` and the
README's table of them. A race of quotafleet's is run again on a simulated clock, with a client that
takes as long for each call as the real one did, and told beside it. The whole
takes about an hour and a half. `python -m benchmarks.race.simulated` runs quotafleet's core
alone through the same scenarios on a simulated clock, in seconds.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Final

from benchmarks.race.conductor import ROOT, run
from benchmarks.race.contenders import CONTENDERS, SIMULATED
from benchmarks.race.report import markdown, plot, write_summary
from benchmarks.race.result import Result
from benchmarks.race.scenarios import SCENARIOS
from benchmarks.race.simulated import Race

#: Seconds that a batch takes at best.
SECONDS: Final = 45.0
QUICK: Final = 8.0


def main() -> None:
    """Race as the command line says."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.race", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="only this one")
    parser.add_argument("--contender", action="append", choices=CONTENDERS, help="only this one")
    parser.add_argument("--quick", action="store_true", help=f"batches of {QUICK:g} s")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="a batch's fluid bound")
    parser.add_argument(
        "--write", action="store_true", help="make docs/race.md, docs/race.png, README's table"
    )
    given = parser.parse_args()
    seconds = QUICK if given.quick else given.seconds
    results: dict[tuple[str, str], Result] = {}
    began = time.monotonic()
    for name in given.scenario or SCENARIOS:
        scenario = SCENARIOS[name](seconds)
        print(f"\n{scenario.title}: {len(scenario.jobs)} calls", flush=True)
        for contender in given.contender or CONTENDERS:
            result, errors = run(contender, scenario, seconds)
            if contender in SIMULATED and result.answered:
                again = Race(scenario, work=result.cpu / result.calls).run()
                result = replace(result, simulated=again)
            results[name, contender] = result
            print(line(contender, result, errors, delays=scenario.delays), flush=True)
            if given.write:  # after each, so that a run that is stopped leaves what it has
                (ROOT / "docs" / "race.md").write_text(markdown(results, seconds) + "\n")
    if given.write:
        plot(results, ROOT / "docs" / "race.png")
        write_summary(results, ROOT / "README.md")
    print(f"\n{time.monotonic() - began:.0f} s in all")


def line(contender: str, result: Result, errors: dict[str, int], *, delays: bool) -> str:
    """Return one race's result for the terminal."""
    if delays:
        head = f"p50 {result.delay(0.5) * 1e3:6.0f} ms, p99 {result.delay(0.99) * 1e3:6.0f} ms"
    else:
        head = f"{result.seconds:6.2f} s over {result.bound:6.2f} s: {result.over:5.3f}"
    if result.simulated is not None:
        head += f" (simulated {result.simulated.over:5.3f})"
    why = ", ".join(f"{count} {error}" for error, count in sorted(errors.items()))
    return (
        f"  {contender:20} {head}   refused {result.refused:5} "
        f"({result.refused / result.calls:7.2%})   lost {result.lost:4}   "
        f"CPU {result.cpu / result.calls * 1e3:5.1f} ms a call   {why}"
    )


if __name__ == "__main__":
    main()
