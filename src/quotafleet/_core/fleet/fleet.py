"""The keys of a fleet, their owners as far as known, and the candidate sets made of them.

A candidate set is laid when its model is first asked for. All are laid anew when it turns out that
keys have other owners.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ...errors import ConfigError
from ...keys import ApiKey
from ...outcomes import Observation
from ..health.circuit_breaker import Circuit
from ..quota.account import Account
from .candidates import CandidateSet, OwnerCandidate, allows, owner_of
from .ownership import OwnerIdentities, Regrouping, regrouped


class Fleet:
    """Who there is, in one process. Not thread-safe: its pool holds a lock.

    Args:
        keys: under the owners that the configuration names.
        account_of: the account of a key's owner for a model family.
        family_of: the family of a model, by the rules of a key's provider.
    """

    def __init__(
        self,
        keys: Sequence[ApiKey],
        *,
        account_of: Callable[[ApiKey, str], Account],
        family_of: Callable[[ApiKey, str], str],
    ) -> None:
        self._keys = {key.key_id: key for key in keys}
        self._account_of = account_of
        self._family_of = family_of
        self._candidate_sets: dict[tuple[str, str | None], CandidateSet] = {}
        self._identities = OwnerIdentities()
        #: Whose health decides who may be asked, by their names.
        self.circuits: dict[str, Circuit] = {}
        #: On which candidates each of them does.
        self.memberships: dict[Circuit, list[tuple[CandidateSet, OwnerCandidate]]] = {}

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """The fleet's keys, as far as is known of their owners by now."""
        return tuple(self._keys.values())

    def accounts(self) -> Iterable[Account]:
        """Return every account of every candidate set, each once."""
        return {
            account: None
            for candidates in self._candidate_sets.values()
            for account in candidates.by_account
        }

    def circuit(self, name: str) -> Circuit:
        """Return what bears this name, closed if it is new."""
        return self.circuits.setdefault(name, Circuit(name))

    def key_circuit(self, key: ApiKey) -> Circuit:
        """Return the health of a key."""
        return self.circuit(f"key {key.key_id}")

    # Candidate sets

    def candidates(self, model: str, pinned_key: str | None = None) -> CandidateSet:
        """Return the owners that may serve a model, or only the owner of a key.

        Raises:
            ConfigError: no key may be used for the model.
        """
        candidates = self._candidate_sets.get((model, pinned_key))
        if candidates is None:
            candidates = CandidateSet(model, pinned_key)
            self._fill(candidates)
            if not candidates.by_account:
                raise ConfigError(
                    f"no key may use the model {model!r}",
                    cure="Check `only_models` of the organizations, or the model's name",
                )
            self._candidate_sets[model, pinned_key] = candidates
        return candidates

    def others(self, model: str, pinned_key: str | None = None) -> frozenset[str]:
        """Return the owners that could serve a model now."""
        return frozenset(account.owner for account in self.candidates(model, pinned_key).ready)

    def _fill(self, candidates: CandidateSet) -> None:
        candidates.clear()
        keys = self._keys.values()
        held_by = (
            None if candidates.pinned_key is None else owner_of(self._keys[candidates.pinned_key])
        )
        for key in keys if held_by is None else [k for k in keys if owner_of(k) == held_by]:
            if allows(key, candidates.model):
                self._seat(candidates, key)
        for candidate in candidates.by_account.values():
            candidate.position = -1
            candidates.refresh(candidate)

    def _seat(self, candidates: CandidateSet, key: ApiKey) -> None:
        account = self._account_of(key, self._family_of(key, candidates.model))
        candidate = candidates.by_account.get(account)
        if candidate is None:
            candidate = candidates.by_account[account] = OwnerCandidate(
                account, self._owner_circuits(account, key, candidates)
            )
            candidates.by_organization.setdefault(account.organization, []).append(account)
            for circuit in candidate.circuits:
                self.memberships.setdefault(circuit, []).append((candidates, candidate))
        circuit = self.key_circuit(key)
        candidate.keys.append((key, circuit))
        self.memberships.setdefault(circuit, []).append((candidates, candidate))

    def _owner_circuits(
        self, account: Account, key: ApiKey, candidates: CandidateSet
    ) -> tuple[Circuit, ...]:
        names = [
            f"organization {account.organization}",
            f"model {candidates.model} of {account.owner}",
            f"model {candidates.model} at {key.provider} {key.base_url}".rstrip(),
        ]
        if account.project is not None:
            names.append(f"project {account.owner}")
        return tuple(self.circuit(name) for name in names)

    # Identity

    def identify(
        self, key: ApiKey, observation: Observation, request: int | None = None
    ) -> Regrouping | None:
        """Take in who the provider says a key belongs to; returns what follows from it.

        The caller merges the organizations in the store, then lets the scheduler `regroup`.
        """
        return self._identities.tell(key, observation, self._keys, request)

    def merged(self, organization: str, into: str) -> Regrouping | None:
        """Take in that another process found two organizations to be one.

        Returns what follows for this one's keys; ``None`` = nothing, none was of that owner.
        """
        self._identities.merged(organization, into)
        if all(key.organization != organization for key in self._keys.values()):
            return None
        return Regrouping(merges=((organization, into),))

    def regroup(self, regrouping: Regrouping) -> None:
        """Lay the candidate sets anew, now that keys turned out to have other owners."""
        merges, projects = dict(regrouping.merges), dict(regrouping.projects)
        for key in self.keys:
            self._keys[key.key_id] = regrouped(key, merges, projects)
        self.memberships.clear()
        for candidates in self._candidate_sets.values():
            self._fill(candidates)
