"""The JSON edge: what a stranger sent is `object` until one of these has looked at it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TypeAlias, cast

JsonObject: TypeAlias = dict[str, object]

_EMPTY: Mapping[str, object] = {}


def parse(data: bytes) -> object:
    """Parse JSON bytes.

    Raises:
        ValueError: the bytes are not JSON.
    """
    return cast(object, json.loads(data))


def dump(value: object) -> bytes:
    """Write compact JSON as UTF-8 bytes."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def obj(value: object) -> Mapping[str, object]:
    """Return `value` if it is an object, else an empty one."""
    return cast(Mapping[str, object], value) if isinstance(value, dict) else _EMPTY


def items(value: object) -> list[object]:
    """Return `value` if it is an array, else an empty one."""
    return cast(list[object], value) if isinstance(value, list) else []


def text(value: object, default: str = "") -> str:
    """Return `value` if it is a string, else `default`."""
    return value if isinstance(value, str) else default


def whole(value: object) -> int | None:
    """Return `value` if it is a whole number, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def number(value: object) -> float | None:
    """Return `value` as a float if it is a number, else None."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def utf8_len(value: str) -> int:
    """Return the length in UTF-8 bytes; the provider's estimate counts bytes, not characters."""
    return len(value) if value.isascii() else len(value.encode(errors="surrogatepass"))
