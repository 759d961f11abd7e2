"""What the script is told of owners and settlements: bytes, and nothing else.

`_lua` states the same from its side; numbers are big-endian doubles, durations in microseconds,
text ends with a zero byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from operator import sub
from struct import Struct
from typing import Final
from urllib.parse import quote

from ..._core.quota.account import Account
from ..._core.quota.header_readings import bucket_of, mark_of, name_of
from ..._core.quota.ledger import LimitsFor
from ..._core.quota.reservations import Reservation, ReservationState, Settlement
from ..._core.quota.token_bucket import TokenBucket
from ...limits import RULES, Costs, Limit
from ...outcomes import Kind, Outcome, Reading

#: The layout of what is stored; another one lives beside it under other keys.
LAYOUT: Final = 3
#: What the script takes for "never", in microseconds.
FOREVER: Final = 1e17
#: What stands in the place of "ended" in what a process did on its own.
ALONE: Final = 2
#: Seconds to keep away from an owner that refused without saying for how long, as in the ledger.
UNKNOWN_REFUSAL: Final = 1.0

_CLOCK: Final = Struct(">3d")
_LIMIT: Final = Struct(">B3d")
_ENDING: Final = Struct(">BBBBddBB14d")
_SPENT: Final = Struct(">BdB7d")
_READING: Final = Struct(">B4dB4d")
_REFUSAL_HEAD: Final = Struct(">Bd")
_REFUSAL: Final = Struct(">2dB3d")
_DOUBLE: Final = Struct(">d")
#: Of one bucket: limit, ceiling, throttle, learned, burst (-1 = none is proven), price, level.
VIEW: Final = Struct(">7d")
#: Of one bucket, when a claim was granted: level, corrected, pending before, taken.
MARK: Final = Struct(">4d")
#: What an ending ends: nothing, a reservation, a share.
_NOTHING, _RESERVATION, _SHARE = 0, 1, 3
_NO_MARK: Final = (0, 0.0, 0.0, 0.0, 0.0)
UNUSED: Final[Costs] = (0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Ending:
    """A settlement on its way: whose, of what, and what it says."""

    organization: str
    reservation_id: str
    numbers: bytes
    blob: bytes
    #: What it ends, and what of that was not used (less than none: what was used more); the view
    #: has that already.
    ends: Reservation | None = None
    unused: Costs = UNUSED


def microseconds(seconds: float) -> float:
    """Return whole microseconds; infinite = more than anything lasts."""
    return round(seconds * 1e6) if seconds < inf else FOREVER


def clock(now: float, lifetime: float, keep: float) -> bytes:
    """Return what each script that touches buckets reads first.

    `now`: in microseconds, -1 = the server's own time; the others are in seconds.
    """
    return _CLOCK.pack(now, microseconds(lifetime), microseconds(keep))


@lru_cache(maxsize=64)
def fleet(namespace: str) -> str:
    """Return what all keys of a fleet begin with."""
    return f"quotafleet:{LAYOUT}:{quote(namespace, safe='')}:"


@lru_cache(maxsize=4096)
def prefix(namespace: str, organization: str) -> str:
    """Return what an organization's keys begin with: all of them in one slot of a cluster."""
    return f"{fleet(namespace)}{{{quote(organization, safe='')}}}:"


def field(bucket: TokenBucket) -> str:
    """Return the name of a bucket in its hash: ``tpm``, ``tpm@project``."""
    project = bucket.scope.partition("/")[2]
    return f"{bucket.name}@{project}" if project else bucket.name


def blob_of(account: Account, limits_for: LimitsFor) -> tuple[bytes, list[tuple[str, str]]]:
    """Return an account with its configured limits, and (scope, limit) of each in that order."""
    limits: list[tuple[str, str, Limit]] = []
    for project in (None, account.project) if account.project is not None else (None,):
        scope = account.organization if project is None else account.owner
        mark = "" if project is None else f"@{project}"
        for limit in limits_for(account.organization, project, account.family):
            limits.append((scope, limit.name + mark, limit))
    head = f"{account.family}\0{account.project or ''}\0".encode()
    parts = [head, bytes([len(limits)])]
    for _, name, limit in limits:
        period = microseconds(limit.period) if limit.period is not None else 0.0
        burst = -1.0 if limit.burst is None else limit.burst
        parts += [name.encode(), b"\0", _LIMIT.pack(limit.metric, period, limit.amount, burst)]
    return b"".join(parts), [(scope, limit.name) for scope, _, limit in limits]


def levels(values: list[float]) -> bytes:
    """Return the levels at which an account's configured buckets are to be made."""
    return b"".join(_DOUBLE.pack(value) for value in values)


def ending(
    settlement: Settlement,
    reservation_id: str,
    blob: bytes,
    *,
    lifetime: float,
    now: float,
    lent_at: float = -1.0,
) -> Ending:
    """Return a settlement as the script reads it; the reservation is as it was before.

    `lent_at`: when the share was lent that it is a part of, as the server said.
    """
    reservation = settlement.reservation
    expired = now >= reservation.expires_at
    readings = () if reservation.answered else settlement.readings
    refusal = _refusal(reservation, settlement.outcome)
    told = [_reading(reservation, reading) for reading in readings]
    told = [reading for reading in told if reading]
    ends = settlement.used is not None and reservation.state is not ReservationState.SETTLED
    flew_for = now - (reservation.expires_at - lifetime)
    numbers = _ENDING.pack(
        _RESERVATION if ends else _NOTHING,
        expired,
        bool(readings),  # it is answered, also by headers that are about no bucket of its
        settlement.headers_at_admission,
        microseconds(max(0.0, flew_for)),
        lent_at,
        len(told),
        bool(refusal),
        *(settlement.used or UNUSED),
        *reservation.costs,
    )
    organization = reservation.account.organization
    text = b"".join((numbers, *told, refusal))
    if not ends:
        return Ending(organization, reservation_id, text, blob)
    held, used = UNUSED if expired else reservation.costs, settlement.used or UNUSED
    unused = tuple(map(sub, held, used))
    return Ending(organization, reservation_id, text, blob, reservation, unused)


def undoing(organization: str, reservation_id: str, blob: bytes, costs: Costs) -> Ending:
    """Return what takes a claim back whose answer never came; nothing, if it was not granted."""
    numbers = _ENDING.pack(_RESERVATION, True, False, False, 0.0, -1.0, 0, 0, *UNUSED, *costs)
    return Ending(organization, reservation_id, numbers, blob)


def share_id(reservation_id: str) -> str:
    """Return what a share is called that was lent along with a reservation."""
    return f"{reservation_id}s"


def share_ending(
    organization: str, reservation_id: str, blob: bytes, left: Sequence[float] | None
) -> Ending:
    """Return what gives back what is left of a share; ``None`` = all, if it was lent at all."""
    rest = UNUSED if left is None else left
    told = (left is None, False, False, 0.0, -1.0, 0, 0)
    numbers = _ENDING.pack(_SHARE, *told, *rest, *UNUSED)
    return Ending(organization, share_id(reservation_id), numbers, blob)


def spent(
    organization: str, blob: bytes, levels: bytes, amounts: list[tuple[str, float]]
) -> Ending:
    """Return what a process took of buckets on its own. One that is gone is made by `levels`."""
    return _alone(organization, "", blob, levels, amounts, -1, UNUSED)


def kept(
    organization: str, reservation_id: str, blob: bytes, levels: bytes, costs: Costs, left: float
) -> Ending:
    """Return a reservation that a process made on its own, with the seconds that it has left."""
    return _alone(organization, reservation_id, blob, levels, [], microseconds(left), costs)


def _alone(
    organization: str,
    reservation_id: str,
    blob: bytes,
    levels: bytes,
    amounts: list[tuple[str, float]],
    left: float,
    costs: Costs,
) -> Ending:
    numbers = _SPENT.pack(ALONE, left, len(amounts), *costs)
    told = b"".join(name.encode() + b"\0" + _DOUBLE.pack(amount) for name, amount in amounts)
    return Ending(organization, reservation_id, numbers + told + levels, blob)


def _reading(reservation: Reservation, reading: Reading) -> bytes:
    mark = mark_of(reservation, reading)
    if mark is not None:
        name, period, marked = field(mark[0]), mark[0].period, (1, *mark[1:])
    else:
        limit = name_of(reading)
        if limit is None or (reading.project and reservation.account.project is None):
            return b""
        name = f"{limit}@{reservation.account.project}" if reading.project else limit
        period, marked = reading.period, _NO_MARK
    burst = -1.0 if reading.burst is None else reading.burst
    spans = microseconds(period) if period is not None else 0.0
    values = (reading.metric, spans, reading.limit, reading.level, burst)
    return name.encode() + b"\0" + _READING.pack(*values, *marked)


def _refusal(reservation: Reservation, outcome: Outcome | None) -> bytes:
    if outcome is None or outcome.kind not in (Kind.RATE_LIMITED, Kind.SLOW_DOWN):
        return b""
    after = outcome.retry_after if outcome.retry_after is not None else UNKNOWN_REFUSAL
    metric, period, limit = outcome.metric, outcome.period, outcome.limit
    head = _REFUSAL_HEAD.pack(1 if outcome.kind is Kind.SLOW_DOWN else 2, microseconds(after))
    if metric is None or period is None or limit is None:
        return head + b"\0" + _REFUSAL.pack(0.0, 0.0, 0, 0.0, 0.0, 0.0)
    reading = Reading(
        metric=metric,
        period=period,
        limit=limit,
        level=0.0 if outcome.used is None else limit - outcome.used,
        project=outcome.scope == "project",
    )
    account = reservation.account
    bucket = bucket_of(account, reading)
    name = field(bucket) if bucket is not None else name_of(reading) or ""
    if bucket is None and reading.project and name:
        name = f"{name}@{account.project}" if account.project is not None else ""
    # What it told is in the provider's units; what was taken, for want of that, in ours.
    requested, used = outcome.requested or -1.0, -1.0 if outcome.used is None else outcome.used
    values = (requested, reservation.costs[metric], metric, microseconds(period), limit, used)
    return head + name.encode() + b"\0" + _REFUSAL.pack(*values)


def limit_named(name: str) -> str:
    """Return the rule's name of a bucket's field: ``tpm`` of ``tpm@project``."""
    limit = name.partition("@")[0]
    if limit not in RULES:
        raise KeyError(limit)
    return limit
