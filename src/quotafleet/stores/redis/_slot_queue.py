"""The row of processes that wait for slots, as this one stands in it.

A slot doesn't come back with time: who frees one tells the first of the row, by a message. So as
long as this process stands there, none of its calls need ask; they wait for the message together.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Final

from ..._core.quota.account import Account
from ..._core.quota.reservations import Claim, NotReady
from ._background import BackgroundWorker
from ._replica import Replica

#: Seconds after which a call that waits for a slot asks again, in case a message was lost.
ASKS_AGAIN_AFTER: Final = 5.0
#: The same in a cluster, where who hasn't asked for 5 seconds is taken for gone.
ASKS_AGAIN_IN_A_CLUSTER: Final = 2.0
#: The same where messages don't come yet.
LISTENS_WITHIN: Final = 0.1


class SlotQueue:
    """For whose slots this process waits. Its books' lock guards it.

    Args:
        view: the accounts of this process.
        companion: hears the messages.
        clustered: they come from a cluster.
    """

    def __init__(self, view: Replica, companion: BackgroundWorker, *, clustered: bool) -> None:
        self._asks_again_after = ASKS_AGAIN_IN_A_CLUSTER if clustered else ASKS_AGAIN_AFTER
        self._view = view
        self._companion = companion
        #: Of which owners' keys it is told, until when: by then it asks again.
        self._told_until: dict[str, float] = {}

    def __bool__(self) -> bool:
        """Whether it stands in any row."""
        return bool(self._told_until)

    def joined(self, accounts: Iterable[Account], now: float) -> float:
        """Take in that it waits for slots of these; return when it asks again."""
        until = now + self._asks_again_after
        for account in accounts:
            self._told_until[self._view.know(account).prefix] = until
        return until

    def left(self, prefix: str) -> None:
        """Take in that none of its calls waits for slots of these keys' owner."""
        self._told_until.pop(prefix, None)

    def answer(self, claim: Claim, now: float) -> NotReady | None:
        """Answer a call that waits behind others of this process; ``None`` = it must ask."""
        if not claim.reserve_ahead > 0 or not self._companion.listening.is_set():
            return None
        until, first = inf, None
        for account in claim.accounts:
            told_until = self._told_until.get(self._view.know(account).prefix, -inf)
            if told_until <= now or account.ready_at(claim.costs, now) < inf:
                return None
            if account.too_large(claim.costs) is not None:
                return None
            until, first = min(until, told_until), first or account
        return NotReady(first, inf, until) if first is not None else None
