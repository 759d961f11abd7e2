"""What a model, a pool of models or an agent may say of its calls, checked when it says so."""

from __future__ import annotations

from math import isfinite
from typing import get_args

from quotafleet import ConfigError, Priority


def check_priority(value: str | None) -> Priority | None:
    """Return a priority.

    Raises:
        ConfigError: a `ValueError`; there is none of that name.
    """
    if value is None:
        return None
    known: tuple[Priority, ...] = get_args(Priority)
    for priority in known:
        if value == priority:
            return priority
    raise ConfigError(f"unknown priority {value!r}", cure=f"Known: {', '.join(known)}")


def check_seconds(name: str, value: float | None) -> float | None:
    """Return a number of seconds; `name` is the argument that it was given for.

    Raises:
        ConfigError: a `ValueError`; it is negative, infinite or not a number.
    """
    if value is None or (isfinite(value) and value >= 0):
        return value
    raise ConfigError(
        f"{name} = {value} is not a finite number of seconds, 0 or more",
        cure="Give seconds, or None",
    )


def check_tenant(value: str | None) -> str | None:
    """Return a tenant's name.

    Raises:
        ConfigError: a `ValueError`; it can't travel in a header.
    """
    is_text = isinstance(value, str) and value.isascii() and value.isprintable()
    if value is None or (is_text and value.strip()):
        return value
    raise ConfigError(f"tenant = {value!r} is no name", cure="Give printable ASCII, or None")
