"""What all drop-ins share: they find their pool, and put it under the clients that stock made.

The clients are those of the class above, so all that it does with them stays as it is; only what
sends their requests is exchanged. It is done once: clients that come back with a copy of a model
(`configurable_fields`) are left alone, or get the pool of the key that was exchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, ClassVar, Self

import openai
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    SkipValidation,
    ValidationInfo,
    field_validator,
    model_validator,
)

from quotafleet import KeyPool, Priority, default_pool
from quotafleet.httpx import SENTINEL, wrap_client

from . import _answer_metadata, _api_keys, _callable_keys, _validation


class PooledModel(BaseModel):
    """The arguments that drop-ins have besides those of the class that they stand for.

    Args:
        pool: whose keys are used; ``None`` = that of the key given, or the default pool.
        priority: ``"interactive"``, ``"normal"`` or ``"batch"``; ``None`` = normal.
        wait_timeout: seconds that an attempt may wait for headroom; ``None`` = as the pool says.
        deadline_after: seconds after which a call as a whole is of no use; ``None`` = never.
        tenant: on whose behalf calls are made; tenants that wait get equal shares of a model.
    """

    #: Whose rules a key follows that came without a pool.
    _provider: ClassVar[str] = "openai"
    #: Where the SDK's resource that `client` holds lies in the SDK's client.
    _resource: ClassVar[str]

    pool: Any = Field(default=None, exclude=True, repr=False)
    # `check_priority` checks it, and its error names those that there are.
    priority: SkipValidation[Priority | None] = Field(default=None, exclude=True)
    wait_timeout: float | None = Field(default=None, exclude=True)
    deadline_after: float | None = Field(default=None, exclude=True)
    tenant: str | None = Field(
        default=None, exclude=True, min_length=1, pattern=r"^[ -~]*[!-~][ -~]*$"
    )

    #: A validation error must not show the arguments, since a key may be among them.
    model_config = ConfigDict(hide_input_in_errors=True)

    @field_validator("priority")
    @classmethod
    def _check_priority_quotafleet(cls, value: str | None) -> Priority | None:
        """Check it now: each call would be refused for it."""
        return _validation.check_priority(value)

    @field_validator("wait_timeout", "deadline_after")
    @classmethod
    def _check_seconds_quotafleet(cls, value: float | None, about: ValidationInfo) -> float | None:
        """Check it now: each call would be refused for it."""
        return _validation.check_seconds(str(about.field_name), value)

    @model_validator(mode="before")
    @classmethod
    def _find_pool_quotafleet(cls, arguments: Any) -> Any:
        """Find the pool."""
        return cls._prepared(arguments) if isinstance(arguments, dict) else arguments

    @classmethod
    def _prepared(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return a model's arguments, with a pool or the keys that it is to be made of.

        The pool of a list is made when stock has said where its keys may go.

        Raises:
            ConfigError: they contradict each other, or there is no key.
        """
        arguments = dict(arguments)
        key = _api_keys.given(arguments, "api_key")
        pool = arguments.get("pool")
        if _comes_back(arguments) and key is not None and not _api_keys.is_sentinel(key):
            pool = arguments["pool"] = None  # the key, which may be another by now, says whose
        if pool is None and _api_keys.is_several(key):
            arguments["pool"] = _api_keys.keys_of(key, cls._provider)
            return _with_sentinel(arguments)
        if pool is None and key is None and cls._takes_default(arguments):
            pool = arguments["pool"] = default_pool()
        if pool is None:
            return arguments
        if not _comes_back(arguments):
            _api_keys.refuse_contradictions(arguments)
        return _with_sentinel(arguments)

    @classmethod
    def _takes_default(cls, arguments: Mapping[str, Any]) -> bool:
        """Whether a model without a pool and a key of its own is to use the default pool.

        Raises:
            ConfigError: there is no key anywhere.
        """
        if any(arguments.get(name) is not None for name in ("client", "async_client")):
            return False
        return _api_keys.has_default()

    @model_validator(mode="after")
    def _put_pool_under_clients(self) -> Self:
        """Put the pool under the clients."""
        keys = self.pool if isinstance(self.pool, _api_keys.Keys) else None
        if keys is not None:
            self.pool = None
        for name in ("client", "async_client"):
            resource = getattr(self, name)
            client = getattr(resource, "_client", None)
            if isinstance(client, (openai.OpenAI, openai.AsyncOpenAI)):
                pooled = self._pooled(client, keys)
                if pooled is not client:
                    setattr(self, name, attrgetter(self._resource)(pooled))
                    if hasattr(self, f"root_{name}"):
                        setattr(self, f"root_{name}", pooled)
        return self

    def _pooled(self, client: Any, keys: _api_keys.Keys | None) -> Any:
        """Return an SDK's client that sends through the pool, or through that of a list of keys."""
        pool, hook = self.pool, None
        if pool is None or keys is not None or _api_keys.is_derived(pool):
            pool, hook = self._own_pool(client, keys)
            if pool is None:
                return client
            if self.pool is None:
                self.pool = pool
        http_client = wrap_client(
            client._client,
            pool,
            base_url=self._base_url(client),
            attempts=self._attempts(),
            own_key=_api_keys.is_derived(pool),
        )
        if http_client is client._client:
            return client
        _hook(http_client, hook)
        return client.with_options(http_client=http_client, api_key=SENTINEL, max_retries=0)

    @staticmethod
    def _base_url(client: Any) -> str:
        """Return what an SDK's client puts before the paths that a key's base URL may precede."""
        return str(client.base_url)

    def _own_pool(
        self, client: Any, keys: _api_keys.Keys | None
    ) -> tuple[KeyPool | None, Callable[..., Any] | None]:
        """Return the pool of the model's own keys, and what must be asked before each request."""
        if client.base_url.scheme not in ("http", "https"):
            return None, None  # nothing can be sent there
        place = _api_keys.Endpoint(
            base_url=self._base_url(client),
            provider=self._provider,
            organization=client.organization,
            project=client.project,
        )
        if keys is not None:
            return _api_keys.of_keys(keys, place), None
        key = getattr(self, "openai_api_key", None)
        if callable(key):
            of = _callable_keys.of_function(key, place)
            return of.pool, of.aask if isinstance(client, openai.AsyncOpenAI) else of.ask
        secret = key.get_secret_value() if isinstance(key, SecretStr) else client.api_key
        return (_api_keys.of_one(secret, place) if secret else None), None

    def _attempts(self) -> int | None:
        """Return how many attempts the user's `max_retries` allows; ``None`` = as the pool says."""
        retries = getattr(self, "max_retries", None)
        default = type(self).model_fields["max_retries"].default
        if retries is None or (retries == default and "max_retries" not in self.model_fields_set):
            return None
        return int(retries) + 1

    def _with_hints(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return a request's arguments with what this model says of its calls."""
        hints: dict[str, str] = {}
        if self.priority is not None:
            hints["x-quotafleet-priority"] = self.priority
        if self.wait_timeout is not None:
            hints["x-quotafleet-timeout"] = str(self.wait_timeout)
        if self.deadline_after is not None:
            hints["x-quotafleet-deadline-after"] = str(self.deadline_after)
        if self.tenant is not None:
            hints["x-quotafleet-tenant"] = self.tenant
        if hints:
            request["extra_headers"] = {**hints, **(request.get("extra_headers") or {})}
        return request


def _comes_back(arguments: Mapping[str, Any]) -> bool:
    """Whether a model is made again of another's fields, clients included."""
    for name in ("client", "async_client"):
        client = getattr(arguments.get(name), "_client", None)
        if hasattr(getattr(client, "_client", None), "_quotafleet_original"):
            return True
    return False


def _with_sentinel(arguments: dict[str, Any]) -> dict[str, Any]:
    arguments.pop("openai_api_key", None)
    arguments["api_key"] = SecretStr(SENTINEL)
    return arguments


def _hook(http_client: Any, before: Callable[..., Any] | None) -> None:
    """Let a pooled client tell of its answers, once; all its models share it."""
    hooks = http_client.event_hooks
    hear = _answer_metadata.ahear if hasattr(http_client, "aclose") else _answer_metadata.hear
    requests, responses = list(hooks["request"]), list(hooks["response"])
    if before is not None and before not in requests:
        requests.append(before)
    if hear not in responses:
        responses.append(hear)
    http_client.event_hooks = {"request": requests, "response": responses}
