"""``quotafleet simulate``: what a fleet would do with some traffic, a day of it in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from ..errors import ConfigError
from ._console import SOME_FAILED, duration, errors_told, out, say

if TYPE_CHECKING:
    from ..config import PoolArguments
    from ..owners import Organization
    from ..testing import MockSettings
    from ._forecast import Forecast
    from ._traffic import Arrival

#: Rows of a table of owners, the busiest first.
ROWS: Final = 12
#: Signs of a line drawn with text, from nothing to the most.
BARS: Final = " ▁▂▃▄▅▆▇█"
#: Seconds of waiting below which more quota is no use.
UNFELT: Final = 0.05
_ONE_SOURCE: Final = "Give either --trace or --rate"


def simulate(  # noqa: PLR0913, PLR0917 - a command's options
    fleet: Annotated[Path, typer.Argument(help="A pool's configuration; its keys aren't used.")],
    trace: Annotated[
        Path | None, typer.Option(help='Calls, one JSON object a line: {"at": 0.5, "model": ...}.')
    ] = None,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Calls a minute.")] = None,
    calls: Annotated[int, typer.Option(min=1, help="Calls at most.")] = 10_000,
    model: Annotated[str, typer.Option(help="The model asked.")] = "gpt-4o-mini",
    input_tokens: Annotated[int, typer.Option(min=1, help="Median of a prompt.")] = 500,
    output_tokens: Annotated[int, typer.Option(min=1, help="Median of an answer.")] = 200,
    seed: Annotated[int, typer.Option(help="Draws instants and sizes.")] = 0,
    more: Annotated[bool, typer.Option(help="Try what more quota would buy, too.")] = True,
    plot: Annotated[
        Path | None, typer.Option(help="Draw a picture there; needs matplotlib.")
    ] = None,
) -> None:
    """Run the production scheduler over traffic on a simulated clock, against a mock provider.

    Tells the use of each owner, waiting, refusals, cost, which limit binds, and what more would
    buy. Exit code 0: all calls were answered; 1: not all; 2: something given is wrong.
    """
    from ..testing import MockSettings  # noqa: PLC0415 - it takes a second
    from ._forecast import forecast  # noqa: PLC0415
    from ._traffic import drawn, models_of, read  # noqa: PLC0415
    from ._world import configured, unenforced  # noqa: PLC0415

    with errors_told():
        if (trace is None) is (rate is None):
            raise ConfigError(_ONE_SOURCE, cure="such as --rate 600")
        found = configured(fleet)
        traffic: Callable[[], Iterable[Arrival]]
        if trace is not None:
            listed = read(trace, model=model, most=calls)
            models = models_of(listed)

            def traffic() -> Iterable[Arrival]:
                return listed
        else:
            models = [model]

            def traffic() -> Iterable[Arrival]:
                return drawn(
                    calls,
                    per_minute=rate or 1.0,
                    model=model,
                    input_tokens=input_tokens,
                    output_tokens=output_tokens,
                    random=Random(seed),  # noqa: S311 - draws traffic
                )

        settings = MockSettings(ramp_base_tokens=None, ttft_s=0.5, tokens_per_s=100.0)
        organizations = found["organizations"]
        for name in unenforced(organizations):
            say("warning", "bold yellow", f"the mock provider does not enforce {name}")
        base = forecast(found, organizations, traffic(), models, settings)
        _show(base)
        if plot is not None:
            from ._plot import draw  # noqa: PLC0415 - matplotlib is not needed otherwise

            draw(base, plot)
        if more:
            _show_more(base, found, traffic, models, settings)
    if base.answered < base.calls:
        raise typer.Exit(SOME_FAILED)


def _show(told: Forecast) -> None:
    console = out()
    lines = [
        f"{told.calls:,} calls in {duration(told.seconds)}: {told.answered:,} answered, "
        f"{sum(told.refused.values()):,} refused by the pool, {told.failed:,} failed",
        f"added delay: median {duration(told.wait(0.5))}, 95 % {duration(told.wait(0.95))}, "
        f"99 % {duration(told.wait(0.99))}, longest {duration(told.wait(1.0))}",
        f"requests turned away by the provider (429): {told.turned_away:,}",
        f"cost: ${told.usd:,.2f}",
    ]
    for name, count in sorted(told.refused.items()):
        lines.append(f"refused as {name}: {count:,}")
    bound = told.binding()
    if bound is not None:
        lines.append(f"the limit that binds: {bound[0]}, {bound[1]:.0%} of it used")
    for line in lines:
        console.print(Text(line))
    if any(told.steps):
        console.print(Text(f"waiting, at most {max(told.steps):,}: |{_bars(told.steps)}|"))
    console.print(_owners(told))


def _owners(told: Forecast) -> Table:
    table = Table()
    for column in ("owner", "calls", "tokens", "cost", "used of its limits"):
        table.add_column(column, justify="left" if column[0] in "ou" else "right")
    busiest = sorted(told.used.items(), key=lambda one: -one[1].calls)
    for owner, used in busiest[:ROWS]:
        shares = (f"{name} {share:.0%}" for name, share in told.limits[owner].items())
        table.add_row(
            Text(owner),
            f"{used.calls:,}",
            f"{used.tokens:,}",
            f"${used.usd:,.2f}",
            Text(", ".join(shares)),
        )
    rest = busiest[ROWS:]
    if rest:
        calls, tokens = (sum(getattr(one, n) for _, one in rest) for n in ("calls", "tokens"))
        usd = sum(one.usd for _, one in rest)
        table.add_row(f"{len(rest):,} more", f"{calls:,}", f"{tokens:,}", f"${usd:,.2f}", "")
    return table


def _bars(steps: list[int], width: int = 60) -> str:
    """Draw numbers as a line of text, the most of some at each place."""
    each = -(-len(steps) // width)
    heights = [max(steps[start : start + each]) for start in range(0, len(steps), each)]
    most = max(heights)
    return "".join(BARS[-(-height * (len(BARS) - 1) // most)] for height in heights)


def _show_more(
    base: Forecast,
    found: PoolArguments,
    traffic: Callable[[], Iterable[Arrival]],
    models: list[str],
    settings: MockSettings,
) -> None:
    """Run the same with more quota, and tell what that would buy."""
    from ._forecast import forecast  # noqa: PLC0415
    from ._world import one_more, raised  # noqa: PLC0415

    if (base.wait(1.0) < UNFELT and base.answered == base.calls) or not base.used:
        out().print(Text("no call waits: more quota would buy nothing"))
        return
    owners: list[Organization] = found["organizations"]
    busiest = max(base.used.items(), key=lambda one: one[1].calls)[0].partition("/")[0]
    tried = {
        "as it is": base,
        f"one more organization like {busiest}": forecast(
            found, one_more(owners, busiest), traffic(), models, settings
        ),
        f"{busiest} in a tier of twice its limits": forecast(
            found, raised(owners, busiest, 2), traffic(), models, settings
        ),
    }
    table = Table()
    for column in ("what more would buy", "answered", "median delay", "95 %", "ends after"):
        table.add_column(column, justify="left" if column[0] == "w" else "right")
    for name, one in tried.items():
        delays = (duration(one.wait(0.5)), duration(one.wait(0.95)), duration(one.seconds))
        table.add_row(Text(name), f"{one.answered:,}", *delays)
    out().print(table)
