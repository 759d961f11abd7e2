"""JSON at the edge: what comes from outside is an `object` until it was looked at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

_NO_FIELDS: Final[Mapping[str, object]] = {}
_DECODER: Final = json.JSONDecoder()
#: A count beyond this is a mistake or an attack, not a number of tokens.
_MOST: Final = 10**12


def parse(data: bytes | str) -> object:
    """Return the value, or ``None`` for what isn't JSON."""
    try:
        value: object = _DECODER.decode(data if isinstance(data, str) else data.decode())
    except (ValueError, RecursionError):
        return None
    return value


def fields(value: object) -> Mapping[str, object]:
    """Return an object's fields; none for anything else."""
    return value if isinstance(value, dict) else _NO_FIELDS


def items(value: object) -> Sequence[object]:
    """Return an array's items; none for anything else."""
    return value if isinstance(value, list) else ()


def text(value: object) -> str:
    """Return a string; ``""`` for anything else."""
    return value if isinstance(value, str) else ""


def count(value: object) -> int | None:
    """Return a plausible count; ``None`` for anything else, also for booleans and NaN."""
    if type(value) is int:  # a boolean is one too, by `isinstance`
        return value if 0 <= value <= _MOST else None
    return count(int(value)) if isinstance(value, float) and value.is_integer() else None
