"""A live fleet as it stands in the server, read only: for people and dashboards. No secret.

It looks through the server's keys, a thousand at a time; that blocks nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf, isfinite
from struct import Struct
from typing import Any, Final
from urllib.parse import unquote

from ..._core.quota.token_bucket import MARGIN
from ...errors import ConfigError
from . import _codec as wire
from ._connection import RedisConnection
from ._health_sync import MERGED, prefix, read_record
from ._members import ProcessReport, read_process
from .store import TIMEOUT

#: Of one bucket, as `_lua/bucket.lua` keeps it.
_BUCKET: Final = Struct(">25d")
_AT_ONCE: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelReport:
    """One limit's bucket.

    Args:
        scope: whose limit it is: ``"acme"``, ``"acme/research"``.
        name: such as ``"tpm"``.
        limit: amount per period.
        available: what it holds now; below 0 is debt.
        booked: of what is taken, how much is for calls that begin later.
        refills_per_second: how fast it refills now; 0.0 = it doesn't (slots).
        throttle: the share of its rate that is used, after the provider said to slow down; 1.0 =
            all of it.
        learned: the limit came from headers, not from the configuration.
    """

    scope: str
    name: str
    limit: float
    available: float
    booked: float
    refills_per_second: float
    throttle: float
    learned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeReport:
    """What one organization may spend on one model family; ``""`` = on all together."""

    organization: str
    family: str
    levels: tuple[LevelReport, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerReport:
    """What is under way with one organization: reservations, and processes that wait for a slot."""

    organization: str
    in_flight: int
    waiting_processes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """A key (by its fingerprint), owner or model that is not in use, why, and for how long.

    `retry_after` is in seconds; ``None`` = until it is revived.
    """

    subject: str
    state: str
    reason: str
    retry_after: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeReport:
    """An organization that turned out to be one with another."""

    organization: str
    into: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetReport:
    """A fleet at one instant, each part sorted by name."""

    namespace: str
    scopes: tuple[ScopeReport, ...]
    owners: tuple[OwnerReport, ...]
    health: tuple[HealthReport, ...]
    merges: tuple[MergeReport, ...]
    processes: tuple[ProcessReport, ...]


def read_fleet(url: str, namespace: str, *, timeout: float = TIMEOUT) -> FleetReport:
    """Return the state of a fleet.

    Args:
        url: as `RedisStore` takes it.
        namespace: of which fleet.
        timeout: seconds to wait for a connection or an answer.

    Raises:
        ConfigError: the URL can't be read, or the namespace holds nothing; it says which do.
        StoreError: the server can't be reached, or refuses.
    """
    server = RedisConnection(url, timeout=timeout)
    try:
        return server.ask(lambda client: _read(client, namespace))
    finally:
        server.close()


def _read(client: Any, namespace: str) -> FleetReport:
    begin, owned = wire.fleet(namespace), existing(client, namespace)
    seconds, micro = client.execute_command("TIME")
    now = seconds + micro / 1e6
    scopes: list[ScopeReport] = []
    owners: dict[str, list[int]] = {}
    for name in owned:
        organization, _, rest = name.removeprefix(begin + "{").partition("}:")
        organization = unquote(organization)
        if organization == "!":
            continue
        if rest == "o" or rest.startswith("f:"):
            found = _levels(organization, client.hgetall(name), now)
            if found is None:
                continue
            scopes.append(
                ScopeReport(organization=organization, family=rest[2:], levels=tuple(found))
            )
        counts = owners.setdefault(organization, [0, 0])
        if rest == "r":
            counts[0] += client.hlen(name)
        elif rest == "t":  # expired, and remembered
            counts[0] -= client.zcard(name)
        elif rest == "w":
            counts[1] = client.zcard(name)
    health, merges = _health(client.hgetall(prefix(namespace) + "health"), now)
    return FleetReport(
        namespace=namespace,
        scopes=tuple(scope for scope in scopes if scope.levels),
        owners=tuple(
            OwnerReport(organization=name, in_flight=max(0, held), waiting_processes=waiting)
            for name, (held, waiting) in sorted(owners.items())
        ),
        health=tuple(health),
        merges=tuple(merges),
        processes=tuple(_processes(client, prefix(namespace), now)),
    )


def existing(client: Any, namespace: str) -> list[str]:
    """Return the keys of a fleet's owners, sorted.

    Raises:
        ConfigError: there is none.
    """
    begin = wire.fleet(namespace)
    names = sorted(key.decode() for key in client.scan_iter(match=f"{begin}*", count=_AT_ONCE))
    owned = [name for name in names if name.startswith(begin + "{")]
    if not owned:
        raise _empty(client, namespace)
    return owned


def _empty(client: Any, namespace: str) -> ConfigError:
    all_fleets = f"quotafleet:{wire.LAYOUT}:"
    keys = client.scan_iter(match=f"{all_fleets}*", count=_AT_ONCE)
    known = {key.decode().removeprefix(all_fleets).partition(":")[0] for key in keys}
    there = ", ".join(repr(unquote(name)) for name in sorted(known)) or "none at all"
    return ConfigError(
        f"the namespace {namespace!r} holds no fleet",
        cure=f"Check its name, and that a process has made a call. There are: {there}",
        place="namespace",
    )


def _levels(
    organization: str, fields: Mapping[bytes, bytes], now: float
) -> Iterable[LevelReport] | None:
    """Return the buckets of a hash as they stand; ``None`` = it was merged into another."""
    if b">" in fields:
        return None
    return [
        _level(organization, name.decode(), packed, now)
        for name, packed in sorted(fields.items())
        if name[:1].islower()  # else a sign, not a limit's name
        and _is_sound(packed)  # else the next call makes it again
    ]


def _is_sound(packed: bytes) -> bool:
    if len(packed) != _BUCKET.size:
        return False
    numbers = _BUCKET.unpack(packed)
    return all(map(isfinite, numbers)) and numbers[6] > 0


def _level(organization: str, field: str, packed: bytes, now: float) -> LevelReport:
    limit, ceiling, burst, configured, _, period, scale, level, _, at, throttle, *more = (
        _BUCKET.unpack(packed)
    )
    proven, price = more[5], more[7]
    booked = more[3] / scale * price
    rate = limit * throttle * 1e6 / period if period > 0 else 0.0
    capacity = min([ceiling, *(known for known in (burst, proven) if known >= 0)])
    if period > 0:
        capacity -= min(MARGIN * limit * 1e6 / period, capacity / 2)
    held = level / scale * price
    refilled = min(held + max(0.0, now - at / 1e6) * rate, capacity - booked)
    name, _, project = field.partition("@")
    return LevelReport(
        scope=f"{organization}/{project}" if project else organization,
        name=name,
        limit=limit,
        available=max(held, refilled),
        booked=booked,
        refills_per_second=rate,
        throttle=throttle,
        learned=configured < 0,
    )


def _health(
    fields: Mapping[bytes, bytes], now: float
) -> tuple[list[HealthReport], list[MergeReport]]:
    health: list[HealthReport] = []
    merges: list[MergeReport] = []
    for name, packed in sorted(fields.items()):
        record = None if name == b"v" else read_record(packed)
        if record is None or record.state == "closed":
            continue
        subject = name.decode()
        if record.state == MERGED:
            organization = subject.removeprefix("merged ")
            merges.append(MergeReport(organization=organization, into=record.reason))
            continue
        left = record.after - now  # what is stored is an instant of the server's
        health.append(
            HealthReport(
                subject=subject,
                state=record.state if left > 0 else "half-open",
                reason=record.reason,
                retry_after=max(0.0, left) if left < inf else None,
            )
        )
    return health, merges


def _processes(client: Any, begin: str, now: float) -> Iterable[ProcessReport]:
    alive = client.zrangebyscore(begin + "alive", now * 1e6, "+inf")
    said = client.hmget(begin + "processes", alive) if alive else []
    for name, told in sorted(zip(alive, said, strict=True)):
        if told is not None:
            yield read_process(name.decode(), told, now)
