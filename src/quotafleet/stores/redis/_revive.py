"""Puts back into use what a live fleet leaves alone, from outside of it."""

from __future__ import annotations

from random import Random

from ..._core.health.circuit_breaker import CircuitState, HealthChange
from ._connection import HEALTH, Part, RedisConnection
from ._health_sync import MERGED, HealthMessage, numbers_of, prefix, read_record
from ._report import existing
from .store import TIMEOUT


def revive_fleet(
    url: str, namespace: str, name: str | None, *, timeout: float = TIMEOUT
) -> tuple[str, ...]:
    """Close what is not closed, in all processes of a fleet; return the subjects, sorted.

    Args:
        url: as `RedisStore` takes it.
        namespace: of which fleet.
        name: part of a subject's name as `read_fleet` shows it; ``None`` = all of them.
        timeout: seconds to wait for a connection or an answer.

    Raises:
        ConfigError: the URL can't be read, or the namespace holds nothing; it says which do.
        StoreError: the server can't be reached, or refuses.
    """
    server = RedisConnection(url, timeout=timeout)
    begin = prefix(namespace)
    try:
        server.ask(lambda client: existing(client, namespace))
        known = server.ask(lambda client: client.hgetall(f"{begin}health"))
        subjects = sorted(
            subject.decode()
            for subject, packed in known.items()
            if subject != b"v"
            and (record := read_record(packed)) is not None
            and record.state not in (CircuitState.CLOSED.value, MERGED)
        )
        chosen = [subject for subject in subjects if name is None or name in subject]
        if chosen:
            who = f"revive-{Random().getrandbits(48):012x}"  # noqa: S311 - a name, not a secret
            parts: list[Part] = [numbers_of(-1, -1e-6), who, f"{begin}changed", ""]
            for subject in chosen:
                parts += HealthMessage(
                    "tell", subject, HealthChange(subject, CircuitState.CLOSED)
                ).parts(0.0)
            server.step([begin], parts, HEALTH)
        return tuple(chosen)
    finally:
        server.close()
