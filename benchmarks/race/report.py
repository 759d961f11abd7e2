"""The results as a Markdown table and a plot."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.race.contenders import ATTEMPTS, CONTENDERS
from benchmarks.race.result import Result
from benchmarks.race.scenarios import AT_A_TIME, SCENARIOS

#: Scenario and contender -> how it ended.
Results = Mapping[tuple[str, str], Result]

_INTRO = """\
# The race

The same batch over the same mock provider, by each contender in turn; made by `make race`, which
takes an hour and a half. Provider, contender and the race itself are processes of one
machine, over loopback HTTP: a busy machine shows all of them slower.

![What share of the quota was used, and what was lost](race.png)

**over** is the time of the batch over its *fluid bound*: the time in which all owners' quota
together could yield it, which nothing can beat: full buckets at the start, and their refill from
then on. Latency, the client's own work, and what an indivisible last call leaves unused aren't in
it. 1.00 is perfect; where calls were lost it says nothing, since less was done. **refused** are
answers that told of a limit, per hundred calls; **lost** are calls that ended in an error, or not
within one and a half times the bound; **CPU** is milliseconds of the contender's process a call.
**simulated** is the same race by quotafleet's core alone on a simulated clock, with a client that
works as long on each call as the real one did.

A client keeps {at_a_time} calls under way, those that wait included, as batch runners do. An answer
takes 30 ms, a third more or less. Each contender makes one call before the clock starts, so that
what it imports isn't raced.

## Contenders

{contenders}

All are told the same limits (or none, where none are configured) and have {attempts} attempts for
a call. What else is theirs to choose follows their own documentation (`benchmarks/race/`).
"""


def _introduction() -> str:
    listed = "\n".join(f"- **{title}**: {make.__doc__}" for title, make in CONTENDERS.values())
    return _INTRO.format(at_a_time=AT_A_TIME, contenders=listed, attempts=ATTEMPTS)


def markdown(results: Results, seconds: float) -> str:
    """Return the page."""
    parts = [_introduction()]
    for name, make in SCENARIOS.items():
        ran = {
            contender: results[name, contender]
            for contender in CONTENDERS
            if (name, contender) in results
        }
        if not ran:
            continue
        scenario = make(seconds)
        bound = next(iter(ran.values())).bound
        parts.append(f"\n## {scenario.title.capitalize()}\n")
        parts.append(_facts(len(scenario.jobs), bound, delays=scenario.delays))
        parts.append(_table(ran, delays=scenario.delays))
    return "\n".join(parts).replace("\n\n\n", "\n\n")


def _facts(calls: int, bound: float, *, delays: bool) -> str:
    what = "arrive in ten bursts" if delays else f"take {bound:.1f} s at best"
    return f"`{calls}` calls that {what}.\n"


def _table(ran: Mapping[str, Result], *, delays: bool) -> str:
    first = "p50 / p99 delay" if delays else "over"
    lines = [
        f"| | {first} | simulated | refused | lost | CPU |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for contender, result in ran.items():
        head = _delays(result) if delays else _over(result)
        again, calls = result.simulated, result.calls
        shown = "" if again is None else _delays(again) if delays else _over(again)
        lines.append(
            f"| {CONTENDERS[contender][0]} | {head} | {shown} | {result.refused / calls:.1%} | "
            f"{result.lost / calls:.1%} | {result.cpu / calls * 1e3:.1f} ms |"
        )
    return "\n".join(lines)


def _over(result: Result) -> str:
    return f"{result.over:.3f}" if not result.lost else "-"


def _delays(result: Result) -> str:
    if not result.delays:
        return "-"
    return f"{result.delay(0.5) * 1e3:.0f} / {result.delay(0.99) * 1e3:.0f} ms"


#: What stands around the README's table.
MARKS: Final = ("<!-- race -->\n", "<!-- end of race -->\n")


def summary(results: Results) -> str:
    """Return a table of all contenders over all scenarios whose batch counts."""
    lines = [
        "| | quota used | at worst | refused | lost |",
        "|---|---:|---:|---:|---:|",
    ]
    for contender, (title, _) in CONTENDERS.items():
        ran = [
            r for (s, c), r in results.items() if c == contender and not SCENARIOS[s](1.0).delays
        ]
        if ran:
            shares = [used(result) for result in ran]
            calls = sum(result.calls for result in ran)
            refused, lost = sum(r.refused for r in ran), sum(r.lost for r in ran)
            lines.append(
                f"| {title} | {sum(shares) / len(shares):.0f} % | {min(shares):.0f} % | "
                f"{refused / calls:.1%} | {lost / calls:.1%} |"
            )
    return "\n".join(lines) + "\n"


def write_summary(results: Results, page: Path) -> None:
    """Put the table between its marks on a page."""
    before, mark, rest = page.read_text().partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not mark or not end:
        raise ValueError(f"{page} has no place for the race's table: {MARKS[0]}{MARKS[1]}")
    page.write_text(before + mark + summary(results) + end + after)


def plot(results: Results, path: Path) -> None:
    """Draw what share of the calls was answered within 1.1 of the bound, and what was lost."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    scenarios = [name for name in SCENARIOS if any(key[0] == name for key in results)]
    names = [name for name in CONTENDERS if any(key[1] == name for key in results)]
    height = 0.8 / len(names)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 1.0 + 0.95 * len(scenarios)), sharey=True, layout="constrained"
    )
    colours = plt.get_cmap("tab10").colors  # type: ignore[attr-defined]
    for number, contender in enumerate(names):
        rows, speeds, lost = [], [], []
        for row, scenario in enumerate(scenarios):
            result = results.get((scenario, contender))
            if result is None:
                continue
            rows.append(row + (number - (len(names) - 1) / 2) * height)
            speeds.append(used(result))
            lost.append(100 * result.lost / result.calls)
        title, colour = CONTENDERS[contender][0], colours[number]
        left.barh(rows, speeds, height, label=title, color=colour)
        right.barh(rows, lost, height, color=colour)
    left.set_yticks(range(len(scenarios)), [SCENARIOS[name](24.0).title for name in scenarios])
    left.invert_yaxis()
    left.axvline(100, color="black", linewidth=0.8)
    left.set_xlabel("calls answered per second, % of what the quota allows")
    right.set_xlabel("calls lost, %")
    right.set_xlim(0, 100)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def used(result: Result) -> float:
    """Return calls answered a second, as a percentage of what the fluid bound allows."""
    if not result.answered:
        return 0.0
    return 100 * result.answered / result.calls * result.bound / max(result.seconds, result.bound)
