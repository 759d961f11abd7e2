"""Keys: a secret, where it may be sent, and the scopes whose quota it draws on."""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import Literal, NoReturn
from urllib.parse import urlsplit

from .errors import ConfigError

ScopeKind = Literal["provider", "organization", "project", "key"]


class Secret:
    """A credential that shows itself only when asked to.

    `repr`, `str`, formatting, logs and tracebacks show ``sk-...a1b2``; it can't be pickled.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        if not value or not value.isascii() or not value.isprintable() or " " in value:
            raise ConfigError(
                "a key is empty or holds white space, control characters or what is not ASCII",
                cure="Check the variable or file that it comes from",
            )
        self._value = value

    def reveal(self) -> str:
        """Return the credential. Call it where the request is made, nowhere else."""
        return self._value

    @property
    def masked(self) -> str:
        """``sk-...a1b2``: enough to recognise a key by, too little to use it."""
        if len(self._value) < 16:
            return "..."
        head = self._value[:3] if self._value[2] == "-" else ""
        return f"{head}...{self._value[-4:]}"

    def fingerprint(self, *context: str) -> str | None:
        """Return a name of the secret that shared stores may show: 32 hexadecimal digits.

        An HMAC-SHA256 of the context under the secret itself as its key, so only who has the secret
        can tell whose name it is, and each context (such as a fleet) has names of its own.
        ``None`` = shorter than 16 characters: it could be found by trying.
        """
        if len(self._value) < 16:
            return None
        message = "\0".join(("quotafleet", *context)).encode()
        return hmac.new(self._value.encode(), message, "sha256").hexdigest()[:32]

    def __repr__(self) -> str:
        return f"Secret({self.masked!r})"

    def __str__(self) -> str:
        return self.masked

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret can't be pickled: pass its reference (env:NAME) instead")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Who owns a quota. Scopes nest: key < project < organization < provider.

    Args:
        kind: the level.
        name: unique among scopes of its kind, such as ``"acme"`` or ``"acme/research"``.
    """

    kind: ScopeKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A secret, the one origin it may be sent to, and the scopes it draws on.

    Args:
        key_id: what logs, events and status show; unique in a pool.
        secret: the credential.
        provider: the name of the provider's rules, such as ``"openai"``.
        base_url: where requests with this key go, such as ``"https://api.openai.com/v1"``.
        organization: name of the owner of the quota.
        project: name of the project inside the organization; ``None`` where it has none.
        organization_id: sent as ``OpenAI-Organization``; ``None`` sends no such header.
        project_id: sent as ``OpenAI-Project``; ``None`` sends no such header.
        only_models: patterns of the models that the key may use; empty = all.

    Raises:
        ConfigError: a `base_url` that is not an http(s) URL.
    """

    key_id: str
    secret: Secret
    organization: str
    base_url: str = ""
    provider: str = "openai"
    project: str | None = None
    organization_id: str | None = None
    project_id: str | None = None
    only_models: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.base_url:
            origin(self.base_url)

    @property
    def scopes(self) -> tuple[Scope, ...]:
        """The scopes that the key draws on, the narrowest first."""
        owners = [Scope(kind="key", name=self.key_id)]
        if self.project is not None:
            owners.append(Scope(kind="project", name=f"{self.organization}/{self.project}"))
        owners.append(Scope(kind="organization", name=self.organization))
        owners.append(Scope(kind="provider", name=self.provider))
        return tuple(owners)


def origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of an http(s) URL: where a secret may go.

    Raises:
        ConfigError: not an absolute http or https URL, or one with a user name or password.
    """
    cure = 'Write it like "https://api.openai.com/v1"'
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(f"base_url {url!r} is not a URL: {error}", cure=cure) from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"base_url {url!r} is not an http or https URL", cure=cure)
    if parts.username or parts.password:
        raise ConfigError("base_url holds a user name or password", cure=cure)
    return parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80)
