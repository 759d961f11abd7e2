"""Ids and instants of answers, drawn from the seed so that a run repeats exactly."""

from __future__ import annotations

from hashlib import blake2b

from ..exchange import Exchange


def draw_id(exchange: Exchange, prefix: str, part: object = "") -> str:
    """Return an id that only this exchange (and this part of it) has."""
    text = f"{exchange.seed}:{prefix}:{part}"
    return prefix + blake2b(text.encode(), digest_size=16).hexdigest()


def request_id(exchange: Exchange) -> str:
    """Return the value of `x-request-id`."""
    return draw_id(exchange, "req_")


def created(exchange: Exchange) -> int:
    """Return the Unix time at which the answer says it was made."""
    provider = exchange.provider
    return provider.settings.epoch_s + int(exchange.admitted_at - provider.accounts.started_at)
