"""Leases that are out with LiteLLM: which attempt holds which, and that each ends once.

An attempt is tied to its lease by a `Token` in the attempt's own copy of the deployment's
``model_info`` (and, where LiteLLM drops that, in its metadata). The token is unguessable and looked
up here: what a client writes into its metadata names nothing. Several hooks tell of one end, in no
certain order and from several threads; whoever takes the lease out of the table ends it.

The token also lives as long as the attempt: when nothing refers to it any more (a stream that was
dropped, a task that was cancelled in a place without a hook), the lease ends too.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from secrets import token_urlsafe
from typing import Any, Final

from quotafleet._lease import Lease
from quotafleet._transport.streams import bury, dig
from quotafleet.outcomes import NOTHING, Observation, Outcome
from quotafleet.protocols import Plan, Provider
from quotafleet.usage import Usage

from ._send_pacing import InFlightPermit

#: The name under which an attempt's data holds its token.
KEY: Final = "quotafleet_lease"
_PLACES: Final = ("model_info", "litellm_metadata", "metadata")


class Token(str):
    """An unguessable name of a lease, alive as long as the attempt that holds it."""

    # LiteLLM copies metadata deeply at times; a copy is the same attempt.
    def __copy__(self) -> Token:
        return self

    def __deepcopy__(self, memo: object) -> Token:
        return self

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


class Held:
    """A lease that an attempt holds, and how its provider reads the answer."""

    __slots__ = ("lease", "passage", "plan", "provider")

    def __init__(
        self, lease: Lease, provider: Provider, plan: Plan, passage: InFlightPermit | None = None
    ) -> None:
        self.lease = lease
        self.provider = provider
        self.plan = plan
        self.passage = passage

    def sent(self) -> None:
        """Take in that the request goes out now."""
        if self.passage is None:
            self.lease.sent()
        else:
            self.passage.leaves(self.lease.sent)

    def let_go(self) -> None:
        """Take in that it no longer keeps others from going out."""
        if self.passage is not None:
            self.passage.end()

    def done(self, usage: Usage | None, headers: Mapping[str, str]) -> None:
        """End it after a success; ``None`` = what was used is not known."""
        if headers:
            self.lease.observe(self._observed(200, headers))
        self.lease.complete(self.provider.charge(self.plan, usage), usage)

    async def adone(self, usage: Usage | None, headers: Mapping[str, str]) -> None:
        """Do as `done`."""
        if headers:
            self.lease.observe(self._observed(200, headers))
        await self.lease.acomplete(self.provider.charge(self.plan, usage), usage)

    def failed(self, outcome: Outcome | None, headers: Mapping[str, str]) -> None:
        """End it after a failure; ``None`` = nothing was sent."""
        if outcome is None:
            self.lease.release()
        else:
            self.lease.fail(outcome, self._observed(0, headers))

    async def afailed(self, outcome: Outcome | None, headers: Mapping[str, str]) -> None:
        """Do as `failed`."""
        if outcome is None:
            await self.lease.arelease()
        else:
            await self.lease.afail(outcome, self._observed(0, headers))

    def _observed(self, status: int, headers: Mapping[str, str]) -> Observation:
        if not headers:
            return NOTHING
        seen = self.provider.observe(status, headers)
        if self.plan.headers_at_admission:
            return seen
        return Observation(
            readings=seen.readings,
            organization_id=seen.organization_id,
            project_id=seen.project_id,
            headers_at_admission=False,
            ignored=seen.ignored,
        )


class _Entry:
    __slots__ = ("held", "watch")

    def __init__(self, held: Held, watch: weakref.ref[Token]) -> None:
        self.held = held
        self.watch = watch


#: What the plain call of this context is about to send; LiteLLM carries it into its threads.
sending: Final[ContextVar[Held | None]] = ContextVar("quotafleet_sending", default=None)

#: Token -> what it stands for. One table for the process, as LiteLLM's callbacks are.
_open: Final[dict[str, _Entry]] = {}


def bind(held: Held) -> Token:
    """Return the token of a lease; the lease ends at the latest when the token is gone."""
    dig()
    name = token_urlsafe(16)
    token = Token(name)

    def lost(_: weakref.ref[Token]) -> None:
        # A destructor runs anywhere, also inside the pool's lock: it must not take that.
        entry = _open.pop(name, None)
        if entry is not None:
            bury(entry.held.lease.abandon)

    _open[name] = _Entry(held, weakref.ref(token, lost))
    return token


def find(data: object) -> Held | None:
    """Return the lease that an attempt's data names, and leave it there."""
    entry = _open.get(next(_names(data), ""))
    return None if entry is None else entry.held


def take(data: object) -> Held | None:
    """Return the lease that an attempt's data names, for the caller to end it; once."""
    entry = _open.pop(next(_names(data), ""), None)
    if entry is None:
        return None
    entry.held.let_go()
    return entry.held


def open_leases() -> int:
    """Return how many leases are out in this process."""
    return len(_open)


def forget(data: dict[str, Any]) -> None:
    """Take out of a client's data what looks like the name of a lease."""
    for place in _PLACES:
        found = data.get(place)
        if isinstance(found, dict):
            found.pop(KEY, None)


def _names(data: object) -> Iterator[str]:
    """Yield what an attempt's data has in our place: LiteLLM hands it around in several shapes.

    The first one counts: a metadata may be a user's, shared by several calls at once.
    """
    if not isinstance(data, Mapping):
        return
    holders = [one for one in (data, data.get("litellm_params")) if isinstance(one, Mapping)]
    for place in _PLACES:
        for holder in holders:
            found = holder.get(place)
            if isinstance(found, Mapping):
                name = found.get(KEY)
                if isinstance(name, str):
                    yield name
