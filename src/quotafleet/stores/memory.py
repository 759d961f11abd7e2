"""Buckets in this process's memory."""

from __future__ import annotations

from threading import Lock

from .._core.quota.account import Account
from .._core.quota.ledger import LIFETIME, Ledger, LimitsFor
from .._core.quota.reservations import Claim, ClaimAnswer, Settlement
from ..keys import ApiKey


class MemoryStore:
    """The ledger behind a lock, for one process; pools of that process may share it.

    Args:
        limits_for: the configured limits of an organization (project ``None``) or project, for
            one model family.
        lifetime: seconds after which an unsettled reservation comes back.
        assumes: seek the rate of owners whose limits nobody tells.
    """

    def __init__(
        self, limits_for: LimitsFor, *, lifetime: float = LIFETIME, assumes: bool = True
    ) -> None:
        self._lock = Lock()  # guards the ledger; held for arithmetic only
        self._ledger = Ledger(limits_for, lifetime=lifetime, assumes=assumes)

    @property
    def is_local(self) -> bool:
        """It answers by arithmetic alone."""
        return True

    @property
    def open(self) -> int:
        """How many reservations are open."""
        return self._ledger.open

    def reserve(self, claim: Claim, now: float) -> ClaimAnswer:
        """Reserve the claim's costs on its first account that fits, or say when one will."""
        with self._lock:
            return self._ledger.reserve(claim, now)

    async def areserve(self, claim: Claim, now: float) -> ClaimAnswer:
        """Do as `reserve`; never suspends."""
        return self.reserve(claim, now)

    def settle(self, settlement: Settlement, now: float) -> bool:
        """Replace a reservation by what was really used, once. True if capacity came back."""
        with self._lock:
            return self._ledger.settle(settlement, now)

    async def asettle(self, settlement: Settlement, now: float) -> bool:
        """Do as `settle`; never suspends."""
        return self.settle(settlement, now)

    def account(self, key: ApiKey, family: str, now: float) -> Account:
        """Return what the key's owner may spend on a model family: the ledger's own entry."""
        with self._lock:
            return self._ledger.account(key.organization, key.project, family, now)

    def merge(self, organization: str, into: str, now: float) -> None:
        """Make two organizations one: the provider says that they are."""
        with self._lock:
            self._ledger.merge(organization, into, now)

    def close(self) -> None:
        """Nothing is held open."""

    async def aclose(self) -> None:
        """Nothing is held open."""
