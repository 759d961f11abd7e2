"""``quotafleet batch``: a file of requests in, a file of answers out, in OpenAI's Batch format.

Exit codes: 0 all lines are answered, 1 some are not, 2 the input or the configuration is wrong,
130 Ctrl-C. Run the same command again to go on: answered lines stay, failed ones are tried again.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.table import Table
from rich.text import Text

from ..config import PoolArguments
from ..errors import ConfigError
from ..pool import KeyPool
from ._console import (
    SOME_FAILED,
    arguments,
    duration,
    err,
    errors_told,
    out,
    plural,
    say,
)
from ._engine import WINDOW, Tally
from ._lines import BatchPlan, survey
from ._output import BatchOutput

#: Seconds that one line may wait for headroom: the window of OpenAI's own batches.
WAIT_FOR: Final = 86_400.0


def batch(
    source: Annotated[Path, typer.Argument(metavar="IN.jsonl", help="One request a line.")],
    target: Annotated[Path, typer.Argument(metavar="OUT.jsonl", help="Made, or resumed.")],
    config: Annotated[
        Path | None, typer.Option(help="A TOML file; the default pool's when left out.")
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, max=10_000, help="Requests under way at a time, waiting or sent.")
    ] = WINDOW,
    wait_timeout: Annotated[
        float, typer.Option(min=0, help="Seconds that a line may wait for headroom.")
    ] = WAIT_FOR,
    keep_failed: Annotated[
        bool, typer.Option("--keep-failed", help="Don't try again what failed in an earlier run.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> None:
    """Send the requests of a file in OpenAI's Batch format, and write down the answers.

    Run it again to resume: what was answered is not sent again, what failed is.

    Exit code 0: all answered; 1: some failed; 2: bad input or configuration; 130: Ctrl-C.
    """
    with errors_told():
        _check(source, target)
        raise typer.Exit(
            _batch(
                source,
                target,
                _arguments(config, concurrency, wait_timeout),
                window=concurrency,
                keep_failed=keep_failed,
                quiet=quiet,
            )
        )


def _arguments(config: Path | None, concurrency: int, wait_timeout: float) -> PoolArguments:
    _, found, warned = arguments(config)
    for warning in warned:
        say("warning", "bold yellow", warning)
    found["wait_timeout"] = wait_timeout
    found["max_waiting"] = max(concurrency, found.get("max_waiting", 0))
    return found


def _batch(
    source: Path,
    target: Path,
    pool_arguments: PoolArguments,
    *,
    window: int,
    keep_failed: bool,
    quiet: bool,
) -> int:
    """Run a batch and return its exit code.

    Raises:
        ConfigError: the input or output is none, or the pool is wrong.
        OSError: a file can't be read or written.
    """
    from ._session import Session  # noqa: PLC0415 - the SDK takes a second to import

    with (
        KeyPool(**pool_arguments) as pool,
        BatchOutput(target, retry_failed=not keep_failed) as output,
    ):
        plan = survey(source, output.done, _report)
        tally = Tally(total=plan.valid, before=plan.before, broken=plan.broken)
        if not quiet:
            _open(plan, output)
        console = None if quiet else err()
        session = Session(pool=pool, output=output, tally=tally, window=window, console=console)
        began = pool.clock.now()
        signal = asyncio.run(session.send(plan.requests()))
        if not quiet:
            refused = sum(key.refused for key in pool.status().keys)
            out().print(_summary(tally, output.failed, refused, pool.clock.now() - began))
        _close(tally, signal)
    if signal:
        return 128 + signal
    unanswered = tally.left or tally.failed or tally.broken or output.failed
    return SOME_FAILED if unanswered else 0


def _check(source: Path, target: Path) -> None:
    with source.open("rb"):
        pass
    if target.exists() and target.samefile(source):
        raise ConfigError(
            "is the input and the output", cure="Write to another file", source=str(target)
        )


def _report(number: int, reason: str) -> None:
    say("error", "bold red", f"line {number} {reason}")


def _open(plan: BatchPlan, output: BatchOutput) -> None:
    console = err()
    if output.torn:
        console.print(Text(f"took off a torn last line ({plural(output.torn, 'byte')})"))
    if plan.before:
        console.print(Text(f"resumed: {plural(plan.before, 'line')} of {plan.valid:,} done before"))
    foreign = len(output.done) - plan.before
    if foreign:
        say(
            "warning",
            "bold yellow",
            f"{plural(foreign, 'line')} of the output stand for no line of this input",
        )


def _summary(tally: Tally, kept: int, refused: int, seconds: float) -> Table:
    table = Table(title="batch", title_justify="left", title_style="bold")
    table.add_column("lines")
    table.add_column("", justify="right")
    rows = [
        ("answered", tally.answered, "green"),
        ("answered before", tally.before - kept, ""),
        ("failed", tally.failed, "red"),
        ("failed before, kept", kept, "red"),
        ("broken, not sent", tally.broken, "red"),
        ("not reached", tally.left, "yellow"),
    ]
    for name, count, style in rows:
        if count or name in ("answered", "failed"):
            table.add_row(name, Text(f"{count:,}", style=style if count else ""))
    table.add_section()
    table.add_row("refused (429) on the way", f"{refused:,}")
    table.add_row("time", duration(seconds))
    if seconds > 0:
        table.add_row("per minute", f"{60 * tally.answered / seconds:,.0f}")
    return table


def _close(tally: Tally, signal: int) -> None:
    if tally.codes:
        kinds = sorted(tally.codes.items(), key=lambda item: -item[1])
        say("failed", "bold red", ", ".join(f"{count:,} x {code}" for code, count in kinds[:10]))
    if tally.halted:
        say("error", "bold red", f"stopped, since no key can be used any more: {tally.halted}")
    if tally.halted or signal:
        say("note", "bold", "run the same command again to go on")
