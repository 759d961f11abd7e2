"""The seams: what a strategy, a store, a provider and a token counter must offer.

Each is given to a pool by object, by name or by entry point. None registers itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar, runtime_checkable

from .limits import Costs, Limits
from .usage import Demand, Usage

if TYPE_CHECKING:
    from ._core.health.circuit_breaker import HealthChange
    from ._core.quota.account import Account
    from ._core.quota.reservations import Claim, ClaimAnswer, Settlement
    from .keys import ApiKey
    from .outcomes import Observation, Outcome

#: Counts the LLM tokens of a text for a model. Must not block on the network.
TokenCounter = Callable[[str, str], int]


class Candidate(Protocol):
    """What a strategy sees of one owner: all keys that draw on the same buckets.

    Keys of one owner add no capacity, so owners are ranked, and an owner's keys take turns.
    """

    @property
    def owner(self) -> str:
        """The owner's name: ``"acme"`` or ``"acme/research"``."""
        ...

    @property
    def in_flight(self) -> int:
        """Calls that hold a reservation here now."""
        ...

    @property
    def granted(self) -> int:
        """Reservations granted here since the pool began."""
        ...

    def headroom(self, costs: Costs, now: float) -> float:
        """What the scarcest bucket would hold after such a call, as a share of its capacity.

        Below 0 the call does not fit now; 1 means that nothing is known to limit it.
        """
        ...


C = TypeVar("C", bound=Candidate)


class Strategy(Protocol):
    """Ranks owners for a demand; never reserves. See `quotafleet.testing.StrategyContract`.

    It may keep state (whose turn it is); a pool calls it from several threads, one at a time. It
    runs under the pool's lock: arithmetic only, no I/O, nothing that waits.
    """

    def rank(self, candidates: Sequence[C], demand: Demand, now: float) -> Iterable[C]:
        """Yield each candidate once, the best first.

        Yield lazily: mostly the first one fits and the rest is never asked for. `candidates` is
        never empty, must not be changed, and is not valid after the next call.
        """
        ...


class Store(Protocol):
    """Where buckets live. Reserves the first fit of a ranking, atomically.

    The synchronous and the asynchronous methods do the same; the latter may suspend. None of
    them calls back into the pool. See `quotafleet.testing.StoreContract`.

    Raises:
        StoreError: it can't answer.
    """

    @property
    def is_local(self) -> bool:
        """Whether it answers by arithmetic alone, so that a pool may ask it under its lock.

        A store that is not gets its claims with the first `RANKED` accounts of the ranking.
        """
        ...

    def reserve(self, claim: Claim, now: float) -> ClaimAnswer:
        """Reserve the claim's costs on its first account that fits, or say when one will."""
        ...

    async def areserve(self, claim: Claim, now: float) -> ClaimAnswer:
        """Do as `reserve`."""
        ...

    def settle(self, settlement: Settlement, now: float) -> bool:
        """Replace a reservation by what was really used, once. True if capacity came back."""
        ...

    async def asettle(self, settlement: Settlement, now: float) -> bool:
        """Do as `settle`."""
        ...

    def account(self, key: ApiKey, family: str, now: float) -> Account:
        """Return this process's view of what the key's owner may spend on a model family."""
        ...

    def merge(self, organization: str, into: str, now: float) -> None:
        """Make two organizations one: the provider says that they are."""
        ...

    def close(self) -> None:
        """Let go of what the store holds open."""
        ...

    async def aclose(self) -> None:
        """Do as `close`."""
        ...


@runtime_checkable
class SharedStore(Store, Protocol):
    """A store that serves other processes too, and so learns of what it wasn't told here."""

    def bind(
        self,
        limits_for: Callable[[str, str | None, str], Limits],
        freed: Callable[[Account], bool],
    ) -> None:
        """Serve a pool.

        Args:
            limits_for: the configured limits of an organization or project for a model family.
            freed: to be called, outside every lock, when an owner has more than its last answer
                told; returns whether any call waits for that.
        """
        ...


class FleetMember(Protocol):
    """What a store that joins processes to a fleet needs of each one's pool.

    It is called outside every lock of the store's.
    """

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """The pool's keys, under their owners as far as is known by now."""
        ...

    @property
    def waiting(self) -> int:
        """Calls that wait for headroom."""
        ...

    def apply_remote(self, changes: Sequence[HealthChange]) -> None:
        """Take in what another process found of keys, owners and models, in this order."""
        ...

    def merged(self, organization: str, into: str) -> None:
        """Take in that another process found two organizations to be one."""
        ...


@runtime_checkable
class FleetStore(SharedStore, Protocol):
    """A shared store by which processes also tell each other who is ill, and who may probe.

    A store without these methods is as good: then each process finds out by itself.
    """

    def join(self, member: FleetMember) -> None:
        """Let a pool hear from the others, from its first claim on."""
        ...

    def publish(self, changes: Sequence[HealthChange]) -> None:
        """Tell the others. Never blocks: it is called under the pool's lock.

        A subject that is ``claiming-probe`` is told to this process alone in answer: ``half-open``
        if it may probe, else what stands.
        """
        ...


class Plan(NamedTuple):
    """What a provider reads from a request before it is sent.

    Args:
        endpoint: a short name: ``"chat"``, ``"completions"``, ``"responses"``, ``"embeddings"``,
            ``"images"``, ``"audio"``, ``"other"``.
        demand: what the provider will count at admission.
        stream: the answer comes as server-sent events.
        headers_at_admission: the answer's headers tell the state at this request's admission.
            False where
            they tell a later one (OpenAI's Responses without streaming, 2026-05 to 2026-08).
        max_output_tokens: the most the request lets the model write; ``None`` = not told.
    """

    endpoint: str
    demand: Demand
    stream: bool = False
    headers_at_admission: bool = True
    max_output_tokens: int | None = None


class Provider(Protocol):
    """One provider's rules, as pure functions: no I/O, no clock, no state.

    Header names are lower case.
    """

    @property
    def name(self) -> str:
        """Its name in a configuration, such as ``"openai"``."""
        ...

    @property
    def base_url(self) -> str:
        """Where requests go when a key names no other place."""
        ...

    def family(self, model: str) -> str:
        """Return the name of the bucket that the model draws on."""
        ...

    def plan(self, method: str, path: str, content_type: str, body: bytes) -> Plan:
        """Read a request. `path` is relative to the base URL. Never raises: the unknown costs 1."""
        ...

    def credentials(self, key: ApiKey) -> Mapping[str, str | None]:
        """Return the headers that authenticate `key`; ``None`` = remove that header."""
        ...

    def observe(self, status: int, headers: Mapping[str, str]) -> Observation:
        """Read what an answer's headers say of the owner's quota. Never raises."""
        ...

    def read(self, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Read what an answer meant. Never raises."""
        ...

    def read_event(self, data: bytes) -> Outcome | None:
        """Read one server-sent event of a 200 answer; ``None`` = it is no error."""
        ...

    def usage(self, endpoint: str, tail: bytes) -> Usage | None:
        """Read real usage from the end of an answer's body or stream; ``None`` = not there."""
        ...

    def charge(self, plan: Plan, usage: Usage | None) -> Usage:
        """Return what the provider's limits counted, once the answer is complete."""
        ...
