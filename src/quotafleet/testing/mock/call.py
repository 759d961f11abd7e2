"""A request as it arrives (`MockRequest`), and what the provider makes of it (`MockCall`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from .cost import NOTHING_ASKED, RequestSize
from .errors import MockError

Endpoint: TypeAlias = Literal[
    "chat",
    "completions",
    "responses",
    "embeddings",
    "images",
    "speech",
    "transcriptions",
    "translations",
    "moderations",
    "models",
    "files",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class MockRequest:
    """An HTTP request. Header names are in lower case, as ASGI and HTTP/2 have them."""

    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    client_ip: str | None = None

    @property
    def secret(self) -> str | None:
        """The bearer credential, or None where there is none."""
        scheme, _, secret = self.headers.get("authorization", "").partition(" ")
        return secret.strip() or None if scheme.lower() == "bearer" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A file out of a multipart body."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MockCall:
    """The facts of a request that admission looks at.

    A simulator makes these itself, and may use one many times: nothing here changes.

    Attributes:
        output_tokens: length of the answer; None = the provider draws it.
        flaw: what is wrong with the parameters; it is answered only after the charge.
        body: the parsed request; None in a simulation, which has no use for answer texts.
        target: the rest of the path, such as a file's id.
    """

    secret: str
    endpoint: Endpoint = "chat"
    model: str = ""
    ask: RequestSize = NOTHING_ASKED
    stream: bool = False
    output_tokens: int | None = None
    client_ip: str | None = None
    flaw: MockError | None = None
    body: Mapping[str, object] | None = None
    upload: Upload | None = None
    method: str = "POST"
    target: str = ""
