"""Embeddings: unit vectors drawn from the text itself, so equal texts have equal vectors."""

from __future__ import annotations

import base64
import math
import struct
from hashlib import shake_128

from .._json import JsonObject, dump, items, whole
from ..exchange import Exchange, Payload
from .wire import JSON


def write_embeddings(exchange: Exchange) -> Payload:
    """Write a list of embeddings, as floats or as base64, which SDKs ask for by default."""
    body = exchange.call.body or {}
    packed = body.get("encoding_format") == "base64"
    data = [_entry(index, vector, packed=packed) for index, vector in enumerate(_vectors(exchange))]
    tokens = exchange.call.ask.input_tokens
    answer: JsonObject = {
        "object": "list",
        "data": data,
        "model": exchange.call.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    return Payload(media_type=JSON, data=dump(answer))


def _vectors(exchange: Exchange) -> list[list[float]]:
    body = exchange.call.body or {}
    assert exchange.chain is not None
    dimensions = whole(body.get("dimensions")) or exchange.chain.spec.dimensions
    return [_unit_vector(repr(one), dimensions) for one in _inputs(body.get("input"))]


def _inputs(given: object) -> list[object]:
    """Return one entry per input: a text or an array of token ids is one, not several."""
    several = items(given)
    if isinstance(given, str) or (several and whole(several[0]) is not None):
        return [given]
    return several


def _unit_vector(seed: str, dimensions: int) -> list[float]:
    noise = shake_128(seed.encode(errors="surrogatepass")).digest(2 * dimensions)
    raw = struct.unpack(f"<{dimensions}h", noise)
    length = math.sqrt(sum(one * one for one in raw)) or 1.0
    return [one / length for one in raw]


def _entry(index: int, vector: list[float], *, packed: bool) -> JsonObject:
    embedding: object = vector
    if packed:
        embedding = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return {"object": "embedding", "index": index, "embedding": embedding}
