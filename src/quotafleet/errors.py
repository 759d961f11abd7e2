"""Every error quotafleet raises. This module imports nothing of quotafleet.

    QuotafleetError
    ├── ConfigError (ValueError)     the configuration or an argument is wrong
    ├── PoolClosed (RuntimeError)    the pool was closed
    ├── StoreError                   the store could not answer
    └── CannotServe                  the pool will not grant this call a key
        ├── WaitTimeout (TimeoutError)   not within the time the call may wait
        ├── QueueFull                    too many calls wait already
        ├── TooLarge (ValueError)        more than any owner's limit ever allows
        └── NoUsableKey                  every key is dead, parked or denied the model

Under an adapter the user sees the host's own error (`openai.RateLimitError`); these stand behind
it as its cause, and carry the same data.
"""

from __future__ import annotations


class QuotafleetError(Exception):
    """Base of all errors of quotafleet."""


class ConfigError(QuotafleetError, ValueError):
    """A configuration or an argument is wrong.

    Args:
        problem: what is wrong, naming the value.
        cure: what to do about it.
        place: where it stands, such as ``organizations[1].limits.rpm``.
        source: the file, or ``None`` where the configuration was given in code.
    """

    def __init__(
        self, problem: str, *, cure: str = "", place: str = "", source: str | None = None
    ) -> None:
        self.problem = problem
        self.cure = cure
        self.place = place
        self.source = source
        where = ": ".join(part for part in (source, place) if part)
        message = f"{where}: {problem}" if where else problem
        super().__init__(f"{message}. {cure}" if cure else message)


class PoolClosed(QuotafleetError, RuntimeError):
    """The pool was closed; calls that waited in it get this error too."""

    def __init__(self) -> None:
        super().__init__("the pool is closed: make a new one, or close it later")


class StoreError(QuotafleetError):
    """The store that holds the buckets could not answer."""


class CannotServe(QuotafleetError):
    """The pool will not grant this call a key.

    Attributes:
        why: one sentence that names the owner and the limit.
        retry_after: seconds after which the same call could be granted; ``None`` = not known.
        key_ids: the keys that were considered.
        model: the model that the call asked for.
        code: a short name for logs and for the ``code`` of an HTTP error body.
    """

    code = "cannot_serve"

    def __init__(
        self,
        why: str,
        *,
        retry_after: float | None = None,
        key_ids: tuple[str, ...] = (),
        model: str = "",
    ) -> None:
        self.why = why
        self.retry_after = retry_after
        self.key_ids = key_ids
        self.model = model
        super().__init__(why)


class WaitTimeout(CannotServe, TimeoutError):
    """The call can't be granted within the time it may wait.

    Raised at once when that is certain, so that the caller can go elsewhere.

    Attributes:
        waited_for: seconds that the call waited before.
    """

    code = "wait_timeout"

    def __init__(
        self,
        why: str,
        *,
        retry_after: float | None = None,
        key_ids: tuple[str, ...] = (),
        model: str = "",
        waited_for: float = 0.0,
    ) -> None:
        super().__init__(why, retry_after=retry_after, key_ids=key_ids, model=model)
        self.waited_for = waited_for


class QueueFull(CannotServe):
    """As many calls as `wait.max_waiting` allows wait already."""

    code = "queue_full"


class TooLarge(CannotServe, ValueError):
    """The call asks for more than a full bucket of any owner holds, so waiting can't help."""

    code = "request_too_large"


class NoUsableKey(CannotServe):
    """No key may serve the call: each is dead, parked for long, or denied the model."""

    code = "no_usable_key"
