"""Who the provider says a key belongs to, and what follows for the quota that keys share.

Keys are grouped by the owners that the configuration names. An answer names them too (OpenAI:
``openai-organization``, ``openai-project``; 2,071 and 1,350 of 2,138 recorded answers), and the
provider is right: two configured organizations with one id share one quota, and keys of one
organization with different project ids belong to different projects.

To merge two owners can't be taken back, and a gateway may hand on another's header. So an
organization's id counts once `ANSWERS_TO_BELIEVE` answers to different requests with a key agree;
one that differs starts the count anew. A configured id outranks what answers say.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ...keys import ApiKey
from ...outcomes import Observation

#: Answers in a row that must name the same organization before anything follows from it.
ANSWERS_TO_BELIEVE: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Regrouping:
    """What an answer taught: organizations that are one, and keys whose project is known now."""

    merges: tuple[tuple[str, str], ...] = ()
    projects: tuple[tuple[str, str], ...] = ()


class OwnerIdentities:
    """What answers have told of each key's owner so far."""

    __slots__ = ("_believed", "_evidence", "_known", "_members", "_organizations", "_splits")

    def __init__(self) -> None:
        #: Of each key the organization that its last answers named, how many in a row, and the
        #: last one's request.
        self._evidence: dict[str, tuple[str, int, int | None]] = {}
        #: Keys of which nothing more is to be learned while their answers don't change.
        self._believed: set[str] = set()
        self._known: dict[str, tuple[str | None, str | None]] = {}
        #: Organization -> its keys whose project an answer told. To look at all keys for each
        #: new one would cost the square of their number.
        self._members: dict[str, dict[str, None]] = {}
        self._organizations: dict[tuple[str, str, str], str] = {}
        self._splits: set[str] = set()

    def tell(
        self,
        key: ApiKey,
        observation: Observation,
        keys: dict[str, ApiKey],
        request: int | None = None,
    ) -> Regrouping | None:
        """Take in what an answer to `key` said; returns what follows, None if it was known.

        Answers that bear the same `request` count once; ``None`` = it is not known which it was.
        """
        told = (observation.organization_id, observation.project_id)
        limited = key.project is None and observation.tells_of_project
        is_known = self._known.get(key.key_id) == told and not limited
        if told == (None, None) or (is_known and key.key_id in self._believed):
            return None
        self._known[key.key_id] = told
        if told[1] is not None:
            self._members.setdefault(key.organization, {})[key.key_id] = None
        merges = self._merge(key, told[0], keys, request)
        if is_known and not merges:
            return None
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

    def _merge(
        self, key: ApiKey, organization_id: str | None, keys: dict[str, ApiKey], request: int | None
    ) -> tuple[tuple[str, str], ...]:
        if organization_id is None or not self._believes(key, organization_id, request):
            return ()
        identity = (key.provider, key.base_url, organization_id)
        first = self._organizations.setdefault(identity, key.organization)
        if first == key.organization or _is_stated_otherwise(first, organization_id, keys):
            return ()
        return ((key.organization, first),)

    def _believes(self, key: ApiKey, organization_id: str, request: int | None) -> bool:
        if key.organization_id is not None:  # the configuration knows
            self._believed.add(key.key_id)
            return key.organization_id == organization_id
        named, count, last = self._evidence.get(key.key_id, (organization_id, 0, None))
        if named != organization_id:
            count, last = 0, None
            self._believed.discard(key.key_id)
        if count and request is not None and request == last:
            return False
        self._evidence[key.key_id] = organization_id, count + 1, request
        if count + 1 < ANSWERS_TO_BELIEVE:
            return False
        self._believed.add(key.key_id)
        return True

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


def _is_stated_otherwise(organization: str, organization_id: str, keys: dict[str, ApiKey]) -> bool:
    """Whether the configuration states another id for an organization."""
    return any(
        key.organization == organization and key.organization_id not in (None, organization_id)
        for key in keys.values()
    )


def regrouped(key: ApiKey, merges: dict[str, str], projects: dict[str, str]) -> ApiKey:
    """Return the key with its owners as they are known now."""
    return replace(
        key,
        organization=merges.get(key.organization, key.organization),
        project=projects.get(key.key_id, key.project),
    )
