"""Who the provider says a key belongs to, and what follows for the quota that keys share.

Keys are grouped by the owners that the configuration names. An answer names them too (OpenAI:
``openai-organization``, ``openai-project``; 2,071 and 1,350 of 2,138 recorded answers), and the
provider is right: two configured organizations with one id share one quota, and keys of one
organization with different project ids belong to different projects.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...keys import ApiKey
from ...outcomes import Observation


@dataclass(frozen=True, slots=True, kw_only=True)
class Regrouping:
    """What an answer taught: organizations that are one, and keys whose project is known now."""

    merges: tuple[tuple[str, str], ...] = ()
    projects: tuple[tuple[str, str], ...] = ()


class OwnerIdentities:
    """What answers have told of each key's owner so far."""

    __slots__ = ("_known", "_members", "_organizations", "_splits")

    def __init__(self) -> None:
        self._known: dict[str, tuple[str | None, str | None]] = {}
        #: Organization -> its keys whose project an answer told. To look at all keys for each
        #: new one would cost the square of their number.
        self._members: dict[str, dict[str, None]] = {}
        self._organizations: dict[tuple[str, str, str], str] = {}
        self._splits: set[str] = set()

    def tell(
        self, key: ApiKey, observation: Observation, keys: dict[str, ApiKey]
    ) -> Regrouping | None:
        """Take in what an answer to `key` said; returns what follows, None if it was known."""
        told = (observation.organization_id, observation.project_id)
        limited = key.project is None and observation.tells_of_project
        if told == (None, None) or (self._known.get(key.key_id) == told and not limited):
            return None
        self._known[key.key_id] = told
        if told[1] is not None:
            self._members.setdefault(key.organization, {})[key.key_id] = None
        merges = self._merge(key, told[0])
        projects = self._split(key, keys, limited=limited)
        for name, into in merges:
            self._members.setdefault(into, {}).update(self._members.pop(name, {}))
        return Regrouping(merges=merges, projects=projects) if merges or projects else None

    def merged(self, organization: str, into: str) -> None:
        """Take in that another process found two organizations to be one."""
        for identity, name in self._organizations.items():
            if name == organization:
                self._organizations[identity] = into
        self._members.setdefault(into, {}).update(self._members.pop(organization, {}))

    def _merge(self, key: ApiKey, organization_id: str | None) -> tuple[tuple[str, str], ...]:
        if organization_id is None:
            return ()
        identity = (key.provider, key.base_url, organization_id)
        first = self._organizations.setdefault(identity, key.organization)
        return ((key.organization, first),) if first != key.organization else ()

    def _split(
        self, key: ApiKey, keys: dict[str, ApiKey], *, limited: bool
    ) -> tuple[tuple[str, str], ...]:
        """Return (key_id, project) of keys without a configured project, where it matters."""
        told = {
            key_id: project
            for key_id in self._members.get(key.organization, ())
            if keys[key_id].project is None
            if (project := self._known[key_id][1]) is not None
        }
        if limited or len(set(told.values())) > 1:
            self._splits.add(key.organization)
        return tuple(told.items()) if key.organization in self._splits else ()


def regrouped(key: ApiKey, merges: dict[str, str], projects: dict[str, str]) -> ApiKey:
    """Return the key with its owners as they are known now."""
    return replace(
        key,
        organization=merges.get(key.organization, key.organization),
        project=projects.get(key.key_id, key.project),
    )
