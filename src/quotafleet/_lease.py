"""What a caller holds to be allowed to send: a key, and a reservation on its owner."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from ._core.admission.effects import Settle
from ._core.call.flow import ABANDONED, counted
from ._core.quota.reservations import ReservationState
from .keys import ApiKey, Secret
from .outcomes import NOTHING, OK, Observation, Outcome
from .usage import Usage

if TYPE_CHECKING:
    from ._core.admission.effects import Grant
    from .pool import KeyPool

_NOTHING_USED = Usage(requests=0)


class Lease:
    """A granted call: send with its key, then `settle`. Ending it twice counts once.

    In a ``with`` block a lease that was not ended is settled at the block's end as it was
    estimated, since the request may have been sent; call `release` if it was not.

    The methods that end or observe a lease may be called from any thread. Their ``a...`` twins do
    the same for pools whose store is remote.
    """

    __slots__ = ("_grant", "_pool")

    def __init__(self, pool: KeyPool, grant: Grant) -> None:
        self._pool = pool
        self._grant = grant

    def __repr__(self) -> str:
        return f"<Lease of {self.key_id}>"

    @property
    def key(self) -> ApiKey:
        """The key: its secret, where that may be sent, and the scopes it draws on."""
        return self._grant.key

    @property
    def key_id(self) -> str:
        """The key's public name."""
        return self._grant.key.key_id

    @property
    def secret(self) -> Secret:
        """The credential; `Secret.reveal` shows it."""
        return self._grant.key.secret

    @property
    def provider(self) -> str:
        """Whose rules apply."""
        return self._grant.key.provider

    @property
    def base_url(self) -> str:
        """Where requests with this key go."""
        return self._pool.base_url(self._grant.key)

    @property
    def headers(self) -> Mapping[str, str | None]:
        """The headers that authenticate a request; ``None`` = remove that header."""
        return self._pool.provider(self._grant.key).credentials(self._grant.key)

    @property
    def owner(self) -> str:
        """Who owns the quota: ``"acme"`` or ``"acme/research"``."""
        return self._grant.candidate.account.owner

    @property
    def waited_for(self) -> float:
        """Seconds that the call waited for headroom."""
        return self._grant.waited_for

    @property
    def settled(self) -> bool:
        """Whether it was ended."""
        return self._grant.reservation.state is ReservationState.SETTLED

    def headers_matter(self, now: float) -> bool:
        """Whether the headers of a success may tell the pool anything that matters.

        Of an owner that was hardly used, those of one answer in a quarter of a second do. Others
        need not be read; the pool looks no further at them.

        Args:
            now: the instant on the pool's clock.
        """
        grant = self._grant
        return not grant.key_circuit.proven or grant.reservation.headers_matter(now)

    # Telling of it

    def sent(self) -> None:
        """Say that the request leaves only now, long after the grant; from any thread.

        The owner's quota refills from the grant on, but the provider's only from the send. Stores
        of several processes don't take it in: there the margin and the answers' headers must do.
        """
        self._pool.sent(self._grant)

    # Ending it

    def settle(self, usage: Usage | None = None) -> None:
        """End it after a success: `usage` replaces the estimate; ``None`` lets that stand."""
        self._end(self._settle(usage))

    def release(self) -> None:
        """End it when nothing was sent: all comes back."""
        self._end(Settle(self._grant, _NOTHING_USED.costs, None))

    def fail(self, outcome: Outcome, observation: Observation = NOTHING) -> None:
        """End it after an answer that was no success; the pool learns from it."""
        self._end(self._failed(outcome, observation))

    def complete(
        self, charged: Usage, usage: Usage | None, observation: Observation = NOTHING
    ) -> None:
        """End it where what limits count differs from what was used, as OpenAI's do."""
        self._end(Settle(self._grant, charged.costs, OK, observation, usage))

    def observe(self, observation: Observation) -> None:
        """Let the pool learn from an answer's headers while the body is still to come."""
        self._pool.finish(Settle(self._grant, None, None, observation))

    async def asettle(self, usage: Usage | None = None) -> None:
        """Do as `settle`."""
        await self._aend(self._settle(usage))

    async def arelease(self) -> None:
        """Do as `release`."""
        await self._aend(Settle(self._grant, _NOTHING_USED.costs, None))

    async def afail(self, outcome: Outcome, observation: Observation = NOTHING) -> None:
        """Do as `fail`."""
        await self._aend(self._failed(outcome, observation))

    async def acomplete(
        self, charged: Usage, usage: Usage | None, observation: Observation = NOTHING
    ) -> None:
        """Do as `complete`."""
        await self._aend(Settle(self._grant, charged.costs, OK, observation, usage))

    def _settle(self, usage: Usage | None) -> Settle:
        costs = self._grant.reservation.costs
        used = counted(costs, OK) if usage is None else usage.costs
        return Settle(self._grant, used, OK, usage=usage)

    def _failed(self, outcome: Outcome, observation: Observation) -> Settle:
        used = counted(self._grant.reservation.costs, outcome)
        return Settle(self._grant, used, outcome, observation)

    def _end(self, settle: Settle) -> None:
        if self._grant.reservation.state is not ReservationState.SETTLED:
            self._pool.finish(settle)

    async def _aend(self, settle: Settle) -> None:
        if self._grant.reservation.state is not ReservationState.SETTLED:
            await self._pool.afinish(settle)

    # As a context

    def abandon(self) -> None:
        """End it when it isn't known what became of the request: the estimate stands."""
        self.fail(ABANDONED)

    async def aabandon(self) -> None:
        """Do as `abandon`."""
        await self.afail(ABANDONED)

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.settled:
            self.settle() if kind is None else self.abandon()


class LeaseContext:
    """What `KeyPool.alease` returns: a lease to be awaited, or held by ``async with``."""

    __slots__ = ("_acquire", "_lease")

    def __init__(self, acquire: Callable[[], Coroutine[object, object, Lease]]) -> None:
        self._acquire = acquire
        self._lease: Lease | None = None

    def __await__(self) -> Generator[object, object, Lease]:
        return self._acquire().__await__()

    async def __aenter__(self) -> Lease:
        self._lease = await self._acquire()
        return self._lease

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        lease = self._lease
        if lease is not None and not lease.settled:
            await (lease.asettle() if kind is None else lease.aabandon())
