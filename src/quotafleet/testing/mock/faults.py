"""Faults on order: which requests go wrong, how, and how often.

A fault waits in a list until a request matches it. The first that matches (and, if it has a
probability, is drawn) is used up by one; requests are counted per fault, so `nth=3` is the third
that matches its key and model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Final, Generic, Literal, Protocol, TypeAlias, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from .call import MockCall
from .errors import FIXED

Action: TypeAlias = Literal[
    "429_rpm",  # refused, and says requests per minute
    "429_tpm",  # refused, and says tokens per minute
    "too_large",  # "Request too large"
    "slow_down",
    "overloaded",  # 503
    "500",
    "quota",  # 429 of the insufficient_quota family, `code` says which
    "error",  # any fixed row of `errors.FIXED`, named by `code`
    "revoke_key",  # 401, and so on for ever
    "timeout",  # charged, then silent for `seconds`, then closed
    "reset_conn",  # closed at once, not charged
    "stream_error",  # an error event inside HTTP 200
    "stream_truncate",  # the body just ends
    "malformed_headers",  # rate-limit headers that are not numbers
    "negative_headers",  # -1 / -1 / 0, as Azure sends at times
]

# These refuse in place of admission; the others happen to a request that was admitted.
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
        "revoke_key",
        "reset_conn",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestMatch:
    """Which requests: all that agree with every field given. `key` is a key's name or secret."""

    key: str | None = None
    model: str | None = None
    endpoint: str | None = None
    nth: int | None = None

    __pydantic_config__ = ConfigDict(extra="forbid")

    def fits(self, key_name: str, call: MockCall) -> bool:
        """Tell whether the request is one of them; `nth` is counted by who asks."""
        return (
            (self.key is None or self.key in (key_name, call.secret))
            and (self.model is None or self.model == call.model)
            and (self.endpoint is None or self.endpoint == call.endpoint)
        )


EVERY: Final = RequestMatch()


@dataclass(frozen=True, slots=True, kw_only=True)
class MockFault:
    """One kind of failure and the requests it befalls.

    Attributes:
        times: how often; None = always.
        probability: chance for each request that matches, drawn from the provider's seed.
        seconds: `timeout`: how long it is silent.
        after_chunks: streams: pieces of the answer that are sent before it breaks.
        code: `error`, `quota`, `stream_error`: the error's code.
        retry_after_s: `retry-after` of a refusal; None = what that refusal usually has.
    """

    action: Action
    match: RequestMatch = EVERY
    times: int | None = 1
    probability: float = 1.0
    seconds: float = 60.0
    after_chunks: int = 1
    code: str | None = None
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
        """Whether a stream ends before its end."""
        return self.action in ("stream_error", "stream_truncate")

    def concerns(self, call: MockCall) -> bool:
        """Tell whether this can happen to the call: only a stream has an error inside."""
        return call.stream or self.action != "stream_error"


class _Order(Protocol):
    """What a list of orders needs to know of each."""

    @property
    def match(self) -> RequestMatch: ...
    @property
    def times(self) -> int | None: ...
    @property
    def probability(self) -> float: ...
    def concerns(self, call: MockCall) -> bool:
        """Tell whether the order can be carried out on the call."""
        ...


OrderT = TypeVar("OrderT", bound=_Order)


class _QueuedOrder(Generic[OrderT]):
    """An order, how many requests it saw, and how often it is still due (None = always)."""

    __slots__ = ("left", "order", "seen")

    def __init__(self, order: OrderT) -> None:
        self.order = order
        self.left = 1 if order.match.nth is not None else order.times
        self.seen = 0

    def due(self, key_name: str, call: MockCall, random: Random) -> bool:
        """Count the request if it matches, and tell whether its turn has come."""
        order = self.order
        if not (order.match.fits(key_name, call) and order.concerns(call)):
            return False
        self.seen += 1
        if order.match.nth is not None and self.seen != order.match.nth:
            return False
        return order.probability >= 1 or random.random() < order.probability


class OrderQueue(Generic[OrderT]):
    """Faults, or scripted answers, in the order in which they were given."""

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

    def pick(self, key_name: str, call: MockCall, random: Random) -> OrderT | None:
        """Return the order that befalls this request, and use it up by one."""
        due = [one for one in self._waiting if one.due(key_name, call, random)]
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
    """Put a validation error on a line or two, without the input: it may hold a secret."""
    places = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'body'}: {e['msg']}" for e in places)
