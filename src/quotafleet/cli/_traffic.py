"""The calls of a simulation: read from a trace, or drawn at a rate."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import Final, NamedTuple

from .._core.admission.wait_queue import PATIENCE, Priority
from ..errors import ConfigError

#: Standard deviation of a drawn size's logarithm: nine of ten lie between 0.44 and 2.3 times the
#: median, about as prompts of one program do.
SPREAD: Final = 0.5


class Arrival(NamedTuple):
    """One call: when it comes, in seconds from the start, and what it is."""

    at: float
    model: str
    input_tokens: int = 500
    output_tokens: int = 200
    priority: Priority = "normal"
    tenant: str | None = None


def drawn(
    calls: int,
    *,
    per_minute: float,
    model: str,
    input_tokens: int,
    output_tokens: int,
    random: Random,
) -> Iterator[Arrival]:
    """Yield calls that come independently of each other (a Poisson process), of varying size.

    Args:
        calls: how many.
        per_minute: their mean rate.
        model: what they ask.
        input_tokens: median of a prompt's length.
        output_tokens: median of an answer's.
        random: draws instants and sizes.
    """
    at = 0.0
    for _ in range(calls):
        at += random.expovariate(per_minute / 60)
        given = max(1, round(input_tokens * random.lognormvariate(0, SPREAD)))
        made = max(1, round(output_tokens * random.lognormvariate(0, SPREAD)))
        yield Arrival(at, model, given, made)


def read(trace: Path, *, model: str, most: int | None) -> list[Arrival]:
    """Return the calls of a trace: a JSON object a line, with `at` and any of `Arrival`'s fields.

    Args:
        trace: the file.
        model: of lines that name none.
        most: how many lines count; ``None`` = all.

    Raises:
        ConfigError: a line is not such an object; it names the line.
        OSError: the file can't be read.
    """
    with trace.open(encoding="utf-8") as lines:
        found = [
            _arrival(line, f"line {number}", str(trace), model)
            for number, line in enumerate(islice(lines, most), start=1)
            if line.strip()
        ]
    if not found:
        raise ConfigError("holds no call", cure='Write lines like {"at": 0.5}', source=str(trace))
    return sorted(found, key=lambda arrival: arrival.at)


def _arrival(line: str, place: str, source: str, model: str) -> Arrival:
    try:
        given = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"is not JSON: {error}", place=place, source=source) from None
    wrong = _wrong(given)
    if wrong is not None:
        cure = 'Write lines like {"at": 0.5, "model": "gpt-4o-mini", "input_tokens": 800}'
        raise ConfigError(wrong, cure=cure, place=place, source=source)
    return Arrival(**{"model": model, **given})


def _wrong(given: object) -> str | None:
    """Return what is wrong with a line; ``None`` = nothing."""
    if not isinstance(given, dict):
        return "is not an object"
    unknown = next((name for name in given if name not in Arrival._fields), None)
    if unknown is not None:
        return f"has no field {unknown!r}; there are {', '.join(Arrival._fields)}"
    if not _is_number(given.get("at")) or given["at"] < 0:
        return "at is not a number of seconds from the start"
    for name in ("input_tokens", "output_tokens"):
        if name in given and not (type(given[name]) is int and given[name] >= 0):
            return f"{name} is not a number of tokens"
    if given.get("priority", "normal") not in PATIENCE:
        return f"priority is none of {', '.join(PATIENCE)}"
    texts = (given.get("model", ""), given.get("tenant") or "")
    return None if all(isinstance(text, str) for text in texts) else "a name is not a text"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value < 1e12


def models_of(arrivals: Iterable[Arrival]) -> list[str]:
    """Return the models that are asked, each once."""
    return list(dict.fromkeys(arrival.model for arrival in arrivals))
