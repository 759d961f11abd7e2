"""Scripted faults: which requests fail, how, and how often.

A fault stays in a list until a request matches it. The first one that matches (and is drawn, if it
has a probability) applies and has one use less. Each fault counts its own requests: `nth=3` is the
third that matches its key and model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Final, Generic, Literal, Protocol, TypeAlias, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from .call import MockCall
from .errors import FIXED

Action: TypeAlias = Literal[
    "429_rpm",  # refused for requests per minute
    "429_tpm",  # refused for tokens per minute
    "too_large",  # "Request too large"
    "slow_down",
    "overloaded",  # 503
    "500",
    "quota",  # 429 of the insufficient_quota family, `code` says which
    "error",  # any fixed row of `errors.FIXED`, named by `code`
    "refuse",  # an error of any `status` (200 too), `code` and `message`, or any `body`
    "revoke_key",  # 401, now and from now on
    "timeout",  # charged, then silent for `seconds`, then closed
    "reset_conn",  # closed at once, not charged
    "stream_error",  # an error event inside HTTP 200, after `after_chunks` pieces
    "stream_truncate",  # the body just ends
    "malformed_headers",  # rate-limit headers that are not numbers
    "negative_headers",  # -1 / -1 / 0, as Azure sends at times
    "odd_reset",  # rate-limit headers whose reset is `seconds`, whatever the limit's period
]

# These replace admission; the others affect a request that was admitted.
REFUSING: Final[frozenset[Action]] = frozenset(
    (
        "429_rpm",
        "429_tpm",
        "too_large",
        "slow_down",
        "overloaded",
        "500",
        "quota",
        "error",
        "refuse",
        "revoke_key",
        "reset_conn",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestMatch:
    """Selects the requests that agree with every given field.

    Attributes:
        key: a key's name or secret.
        nth: only the n-th request that matches the other fields.
        text: a part of the request's body, such as words of the prompt.
        start_s, end_s: seconds since the provider's start between which the request comes.
    """

    key: str | None = None
    model: str | None = None
    endpoint: str | None = None
    nth: int | None = None
    text: str | None = None
    start_s: float | None = None
    end_s: float | None = None

    __pydantic_config__ = ConfigDict(extra="forbid")

    def fits(self, key_name: str, call: MockCall, elapsed_s: float) -> bool:
        """Return whether the request matches; the caller counts for `nth`."""
        return (
            (self.key is None or self.key in (key_name, call.secret))
            and (self.model is None or self.model == call.model)
            and (self.endpoint is None or self.endpoint == call.endpoint)
            and (self.text is None or self.text in str(call.body))
            and (self.start_s is None or elapsed_s >= self.start_s)
            and (self.end_s is None or elapsed_s < self.end_s)
        )


EVERY: Final = RequestMatch()


@dataclass(frozen=True, slots=True, kw_only=True)
class MockFault:
    """One kind of failure and the requests that it affects.

    Attributes:
        times: how often; ``None``: always.
        probability: chance for each matching request, drawn from the provider's seed.
        seconds: `timeout`: how long the connection is silent; `odd_reset`: what reset states.
        after_chunks: streams: pieces of the answer that are sent before it breaks; with 0 the first
            event is the error.
        code: `error`, `quota`, `refuse`, `stream_error`: the error's code.
        status, message, body: `refuse`: its HTTP status, its text, or the whole body, such as
            ``{"base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}``.
        retry_after_s: `retry-after` of a refusal; ``None``: what that refusal usually has.
    """

    action: Action
    match: RequestMatch = EVERY
    times: int | None = 1
    probability: float = 1.0
    seconds: float = 60.0
    after_chunks: int = 1
    code: str | None = None
    status: int = 400
    message: str = "The request could not be served."
    body: Mapping[str, object] | None = None
    retry_after_s: float | None = None

    __pydantic_config__ = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        if not 0 < self.probability <= 1:
            raise ValueError(f"probability must be above 0 and at most 1: {self.probability}")
        if self.times is not None and self.times < 1:
            raise ValueError(f"times must be at least 1, or None for always: {self.times}")
        named = self.action == "error" or (self.action == "quota" and self.code is not None)
        if named and self.code not in FIXED:
            raise ValueError(
                f"no error {self.code!r} to answer with; there are: {', '.join(sorted(FIXED))}"
            )

    @property
    def breaks_stream(self) -> bool:
        """Whether a stream ends early."""
        return self.action in ("stream_error", "stream_truncate")

    def concerns(self, call: MockCall) -> bool:
        """Return whether the fault can affect the call: only streams have errors inside."""
        return call.stream or self.action != "stream_error"


class _Order(Protocol):
    """What `OrderQueue` needs of an order."""

    @property
    def match(self) -> RequestMatch: ...
    @property
    def times(self) -> int | None: ...
    @property
    def probability(self) -> float: ...
    def concerns(self, call: MockCall) -> bool:
        """Return whether the order applies to such calls."""
        ...


OrderT = TypeVar("OrderT", bound=_Order)


class _QueuedOrder(Generic[OrderT]):
    """An order, the requests it has matched, and its uses left (``None``: unlimited)."""

    __slots__ = ("left", "order", "seen")

    def __init__(self, order: OrderT) -> None:
        self.order = order
        self.left = 1 if order.match.nth is not None else order.times
        self.seen = 0

    def due(self, key_name: str, call: MockCall, elapsed_s: float, random: Random) -> bool:
        """Count the request if it matches, and return whether the order applies to it."""
        order = self.order
        if not (order.match.fits(key_name, call, elapsed_s) and order.concerns(call)):
            return False
        self.seen += 1
        if order.match.nth is not None and self.seen != order.match.nth:
            return False
        return order.probability >= 1 or random.random() < order.probability


class OrderQueue(Generic[OrderT]):
    """Faults or scripted answers, in the order in which a test gave them."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[_QueuedOrder[OrderT]] = []

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, orders: Iterable[OrderT]) -> None:
        """Append to the list."""
        self._waiting.extend(map(_QueuedOrder, orders))

    def clear(self) -> None:
        """Forget all of them."""
        self._waiting.clear()

    def pick(
        self, key_name: str, call: MockCall, elapsed_s: float, random: Random
    ) -> OrderT | None:
        """Return the order that applies to this request, and count one use of it."""
        due = [one for one in self._waiting if one.due(key_name, call, elapsed_s, random)]
        if not due:
            return None
        first = due[0]
        if first.left is not None:
            first.left -= 1
            if first.left == 0:
                self._waiting.remove(first)
        return first.order


_FAULTS: Final = TypeAdapter(tuple[MockFault, ...])


def read_faults(data: object) -> tuple[MockFault, ...]:
    """Read faults from parsed JSON: one object, or an array of them.

    Raises:
        ValueError: one line for every wrong place.
    """
    try:
        return _FAULTS.validate_python([data] if isinstance(data, dict) else data)
    except ValidationError as error:
        raise ValueError(explain(error)) from None


def explain(error: ValidationError) -> str:
    """Format a validation error without the input, which may hold a secret."""
    places = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in places)
