"""Which owners suit a call, of those that are ready.

Theory of operation. A fleet may be short of requests at one owner and of tokens at another. If each
call took what comes first, both would be left with much of what they aren't short of. So while
calls wait, one of them leaves an owner out for another of which it takes less, if that one is soon
ready and has as large a share left.
"""

from __future__ import annotations

from math import inf
from typing import Final

from ..quota.account import Account
from .wait_queue import Waiter

#: How much more of one owner's scarcest limit than of another's a call may take, each against what
#: the usual call takes, and seconds for which it then waits for the other, if that has as large a
#: share left, or nearly.
SUITS: Final = 1.1
SUITS_WITHIN: Final = 2.0
SUITS_SLACK: Final = 0.05


def best_fit(waiter: Waiter, ready: list[Account], now: float) -> list[Account]:
    """Return the ready owners, less those that suit a call worse than one that is soon ready."""
    queue, costs = waiter.queue, waiter.costs
    others = []
    for candidate in queue.candidates.by_account.values():
        account, pauses_until = candidate.account, candidate.family.pauses_until
        at = account.ready_at(costs, now)
        if pauses_until > -inf:
            at = max(at, pauses_until)
        elif candidate.position < 0:
            continue
        if now < at < min(now + SUITS_WITHIN, waiter.gives_up_at):
            load_ratio = queue.load_ratio(account, costs)
            others.append((SUITS * load_ratio, account.headroom(costs, now) + SUITS_SLACK))

    def suits(account: Account) -> bool:
        load_ratio, headroom = queue.load_ratio(account, costs), account.headroom(costs, now)
        return not any(less < load_ratio and headroom < most for less, most in others)

    return [account for account in ready if suits(account)] if others else ready
