"""What happens in a pool, as frozen facts for listeners.

A listener is called with one event, outside every lock, in the thread or task where it happened.
It must be quick; what it raises is dropped and counted, and can't reach a call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .usage import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Leased:
    """A call was granted a key. `waited_for` is in seconds."""

    key_id: str
    owner: str
    model: str
    waited_for: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A call gave up waiting, or was told that it would in vain."""

    model: str
    waited_for: float
    code: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """An attempt ended. `usage` is what it really used; ``None`` = the answer didn't tell."""

    key_id: str
    owner: str
    model: str
    outcome: str
    usage: Usage | None
    held_for: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttled:
    """The provider refused an attempt: the pool's picture of the owner's quota was wrong."""

    key_id: str
    owner: str
    model: str
    code: str
    retry_after: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unavailable:
    """A key, owner or model is left alone from now on; `state` and `reason` say how and why."""

    subject: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Available:
    """A key, owner or model is in use again."""

    subject: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnersMerged:
    """Two configured organizations turned out to be one: they share one quota."""

    organization: str
    into: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitChanged:
    """An answer states a higher limit than the configured one, which still holds.

    Args:
        owner: ``"acme"`` or ``"acme/research"``.
        metric: what is counted, such as ``"tokens"``.
        period: seconds.
        configured: the amount per period that the configuration states.
        told: the amount that the answer states.
    """

    owner: str
    metric: str
    period: float
    configured: float
    told: float


Event = (
    Leased | Refused | Settled | Throttled | Unavailable | Available | OwnersMerged | LimitChanged
)
Listener = Callable[[Event], None]
