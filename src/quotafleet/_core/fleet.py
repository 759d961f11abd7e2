"""The keys of a fleet, their owners as far as is known, and the routes that are laid over them.

A route is laid when its model is first asked for. All are laid anew when it turns out that keys
have other owners.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from .._keys import ApiKey
from .._outcome import Observation
from ..errors import ConfigError
from .account import Account
from .health import Subject
from .identity import Identities, Regrouping, regrouped
from .routes import Route, Seat, allows, owner_of


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
        self._routes: dict[tuple[str, str | None], Route] = {}
        self._identities = Identities()
        #: Whose health decides who may be asked, by their names.
        self.subjects: dict[str, Subject] = {}
        #: On which seats each of them does.
        self.seats_of: dict[Subject, list[tuple[Route, Seat]]] = {}

    @property
    def keys(self) -> tuple[ApiKey, ...]:
        """The fleet's keys, as far as is known of their owners by now."""
        return tuple(self._keys.values())

    def accounts(self) -> Iterable[Account]:
        """Return every account on some route, each once."""
        return {account: None for route in self._routes.values() for account in route.seats}

    def subject(self, name: str) -> Subject:
        """Return what bears this name, closed if it is new."""
        return self.subjects.setdefault(name, Subject(name))

    def key_subject(self, key: ApiKey) -> Subject:
        """Return the health of a key."""
        return self.subject(f"key {key.key_id}")

    # Routes

    def route(self, model: str, holder: str | None = None) -> Route:
        """Return the owners that may serve a model, or only the owner of a key.

        Raises:
            ConfigError: no key may be used for the model.
        """
        route = self._routes.get((model, holder))
        if route is None:
            route = Route(model, holder)
            self._fill(route)
            if not route.seats:
                raise ConfigError(
                    f"no key may use the model {model!r}",
                    cure="Check `only_models` of the organizations, or the model's name",
                )
            self._routes[model, holder] = route
        return route

    def others(self, model: str, holder: str | None = None) -> frozenset[str]:
        """Return the owners that could serve a model now."""
        return frozenset(account.owner for account in self.route(model, holder).ready)

    def _fill(self, route: Route) -> None:
        route.clear()
        keys = self._keys.values()
        held_by = None if route.holder is None else owner_of(self._keys[route.holder])
        for key in keys if held_by is None else [k for k in keys if owner_of(k) == held_by]:
            if allows(key, route.model):
                self._seat(route, key)
        for seat in route.seats.values():
            seat.position = -1
            route.refresh(seat)

    def _seat(self, route: Route, key: ApiKey) -> None:
        account = self._account_of(key, self._family_of(key, route.model))
        seat = route.seats.get(account)
        if seat is None:
            seat = route.seats[account] = Seat(account, self._owner_subjects(account, key, route))
            route.kin.setdefault(account.organization, []).append(account)
            for subject in seat.subjects:
                self.seats_of.setdefault(subject, []).append((route, seat))
        subject = self.key_subject(key)
        seat.keys.append((key, subject))
        self.seats_of.setdefault(subject, []).append((route, seat))

    def _owner_subjects(self, account: Account, key: ApiKey, route: Route) -> tuple[Subject, ...]:
        names = [
            f"organization {account.organization}",
            f"model {route.model} of {account.owner}",
            f"model {route.model} at {key.provider} {key.base_url}".rstrip(),
        ]
        if account.project is not None:
            names.append(f"project {account.owner}")
        return tuple(self.subject(name) for name in names)

    # Identity

    def identify(self, key: ApiKey, observation: Observation) -> Regrouping | None:
        """Take in who the provider says a key belongs to; returns what follows from it.

        The caller merges the organizations in the store, then lets the scheduler `regroup`.
        """
        return self._identities.tell(key, observation, self._keys)

    def merged(self, organization: str, into: str) -> Regrouping | None:
        """Take in that another process found two organizations to be one.

        Returns what follows for this one's keys; ``None`` = nothing, none was of that owner.
        """
        self._identities.merged(organization, into)
        if all(key.organization != organization for key in self._keys.values()):
            return None
        return Regrouping(merges=((organization, into),))

    def regroup(self, regrouping: Regrouping) -> None:
        """Lay the routes anew, now that keys turned out to have other owners."""
        merges, projects = dict(regrouping.merges), dict(regrouping.projects)
        for key in self.keys:
            self._keys[key.key_id] = regrouped(key, merges, projects)
        self.seats_of.clear()
        for route in self._routes.values():
            self._fill(route)
