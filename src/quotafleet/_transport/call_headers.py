"""What a caller may say of one call in extra headers, which travel through every SDK.

client.chat.completions.create(..., extra_headers={"x-quotafleet-priority": "batch"})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from math import inf
from typing import Any, Final, cast

from .._core.admission.wait_queue import PATIENCE, Priority
from ..errors import ConfigError


@dataclass(frozen=True, slots=True)
class CallHeaders:
    """What a caller may say of one call in extra headers; they are never sent on."""

    priority: Priority = "normal"
    timeout: float | None = None
    deadline_after: float | None = None
    max_attempts: int | None = None
    tenant: str | None = None


def read_hints(call_headers: Mapping[str, str]) -> CallHeaders:
    """Read the extra headers of a call; `call_headers` has their names without ``x-quotafleet-``.

    Raises:
        ConfigError: an unknown name, or a value that makes no sense.
    """
    unknown = next((name for name in call_headers if name not in _HINTS), None)
    if unknown is not None:
        near = get_close_matches(unknown, _HINTS, n=1) or [", x-quotafleet-".join(_HINTS)]
        raise ConfigError(
            f"unknown header x-quotafleet-{unknown}", cure=f"Known: x-quotafleet-{near[0]}"
        )
    return CallHeaders(
        **{_HINTS[name][0]: _HINTS[name][1](name, call_headers[name]) for name in call_headers}
    )


def _priority(name: str, text: str) -> Priority:
    if text not in PATIENCE:
        raise _senseless(name, text, f"one of {', '.join(PATIENCE)}")
    return cast(Priority, text)


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < inf:
        raise _senseless(name, text, "seconds, such as 30 or 0.5")
    return seconds


def _count(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:9]) > 0):
        raise _senseless(name, text, "a number from 1")
    return int(text[:9])


def _tenant(name: str, text: str) -> str:
    if not text.strip():
        raise _senseless(name, text, "the name of a tenant")
    return text.strip()


def _senseless(name: str, text: str, wanted: str) -> ConfigError:
    return ConfigError(f"x-quotafleet-{name}: {text[:80]!r} makes no sense", cure=f"Send {wanted}")


_HINTS: Final[dict[str, tuple[str, Callable[[str, str], Any]]]] = {
    "priority": ("priority", _priority),
    "timeout": ("timeout", _seconds),
    "deadline-after": ("deadline_after", _seconds),
    "max-attempts": ("max_attempts", _count),
    "tenant": ("tenant", _tenant),
}
