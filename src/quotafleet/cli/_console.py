"""What all commands say alike: errors, warnings, numbers."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import typer
from rich.console import Console
from rich.text import Text

from ..config import PoolArguments, ReadableSecretWarning, default_file, load, load_default
from ..errors import ConfigError

#: Exit codes, as `quotafleet batch --help` states them.
SOME_FAILED: Final = 1
BAD_INPUT: Final = 2
INTERRUPTED: Final = 130


def out() -> Console:
    """Return the console of results."""
    return Console(highlight=False)


def err() -> Console:
    """Return the console of progress, warnings and errors."""
    return Console(stderr=True, highlight=False)


def say(kind: str, style: str, message: str) -> None:
    """Write one line to standard error; `message` may hold brackets."""
    err().print(Text.assemble((f"{kind}: ", style), message), soft_wrap=True)


@contextmanager
def errors_told() -> Iterator[None]:
    """Turn what a user can put right into one message and exit code 2."""
    try:
        yield
    except ConfigError as error:
        say("error", "bold red", str(error))
        raise typer.Exit(BAD_INPUT) from None
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        say("error", "bold red", f"{where}{error.strerror or error}")
        raise typer.Exit(BAD_INPUT) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def arguments(config: Path | None) -> tuple[str, PoolArguments, list[str]]:
    """Return where a pool's configuration comes from, its arguments, and what to be warned of.

    Raises:
        ConfigError: there is none, or it is wrong.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", ReadableSecretWarning)
        if config is not None:
            found = load(config)
            source = str(config)
        else:
            found = load_default()
            source = str(default_file() or "OPENAI_API_KEYS")
    return source, found, [str(warning.message) for warning in caught]


def number(value: float) -> str:
    """Write ``200000.0`` as ``200,000``."""
    return f"{value:,.0f}" if value == int(value) else f"{value:,g}"


def plural(count: int, noun: str) -> str:
    """Write ``1 line``, ``2 lines``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def duration(seconds: float) -> str:
    """Write seconds as ``42.3 s``, ``3:07``, ``1:02:09``."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
