"""Headers of both families, read and set in one pass, and of one that keeps them otherwise."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import openai
import pytest

from quotafleet._transport.httpx_compat import hand_over, put, readable

HTTPX: Any = __import__("httpx2" if int(openai.__version__.split(".")[0]) > 2 else "httpx")


class Otherwise:
    """Headers with nothing but what is public."""

    def __init__(self, pairs: list[tuple[bytes, bytes]]) -> None:
        self._headers = HTTPX.Headers(pairs)

    @property
    def raw(self) -> list[tuple[bytes, bytes]]:
        pairs: list[tuple[bytes, bytes]] = self._headers.raw
        return pairs

    def get(self, name: str) -> str | None:
        value: str | None = self._headers.get(name)
        return value

    def __setitem__(self, name: str, value: str) -> None:
        self._headers[name] = value

    def __delitem__(self, name: str) -> None:
        del self._headers[name]


MAKERS = [HTTPX.Headers, Otherwise]
PAIRS = [(b"Accept", b"a"), (b"Cookie", b"b"), (b"X-Name", b"caf\xe9")]


@pytest.mark.parametrize("make", MAKERS)
def test_headers_are_read_by_their_names_in_lower_case(make: Callable[..., Any]) -> None:
    assert readable(make(PAIRS)) == {"accept": "a", "cookie": "b", "x-name": "caf\xe9"}
    assert readable(make([])) == {}


@pytest.mark.parametrize("make", MAKERS)
def test_headers_are_set_replaced_and_taken_out(make: Callable[..., Any]) -> None:
    headers = make([*PAIRS, (b"cookie", b"again")])
    put(headers, {b"cookie": None, b"accept": b"z", b"host": b"h", b"x-key": None})
    assert readable(headers) == {"x-name": "caf\xe9", "accept": "z", "host": "h"}
    assert headers.get("Host") == "h"


def test_a_value_that_holds_a_lines_end_is_none() -> None:
    headers = HTTPX.Headers([(b"a", b"x")])
    put(headers, {b"b": b"y\nz"})
    with pytest.raises(ValueError, match="zip"):
        readable(headers)


def test_a_family_that_keeps_bodies_otherwise_reads_them_itself() -> None:
    class Response:
        def __init__(self, status: int, content: bytes = b"") -> None:
            self.status_code, self.body, self.stream = status, content, b""

    httpx: Any = SimpleNamespace(Response=Response, ByteStream=bytes)
    response = Response(200)
    hand_over(httpx, response, b"a body", b"a body")
    assert type(response) is Response
    assert response.stream == b"a body"
