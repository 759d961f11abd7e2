"""A Router's ``model_list`` as owners, keys and limits.

One deployment is one key. Who owns its quota stands in ``model_info.organization``, else in
``litellm_params.organization``; deployments that share one credential share its owner; any other
owns its quota alone. The pool gets no credential: LiteLLM holds those and sends.

A *lane* is what the pool takes for the model: the provider's name of the model, the group, and,
where only some deployments of it may serve, those. Deployments may use the lanes that name them.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from glob import escape
from typing import Any, Final
from urllib.parse import urlsplit

import litellm

from quotafleet.errors import ConfigError
from quotafleet.keys import ApiKey, Secret
from quotafleet.limits import Limits
from quotafleet.owners import ModelLimits, Organization
from quotafleet.pool import KeyPool
from quotafleet.protocols import Provider
from quotafleet.providers import PROVIDERS
from quotafleet.providers import provider as provider_named

log: Final = logging.getLogger("quotafleet.litellm")

#: An element of a Router's ``model_list``, as LiteLLM has it.
Deployment = dict[str, Any]

#: ``litellm_params`` name -> the limit that it states.
_LIMITS: Final = {"rpm": "rpm", "tpm": "tpm", "max_parallel_requests": "concurrent"}
#: What makes LiteLLM choose among a group's deployments by rules of its own.
_INFO_RULES: Final = (
    "team_id",
    "team_public_model_name",
    "blocked",
    "access_groups",
    "supports_web_search",
)
_PARAM_RULES: Final = ("order", "tags", "tag_regex", "blocked")
_AT: Final = " @ "
_MARK: Final = "#"
#: Hosts whose rules are OpenAI's own, whatever else speaks its protocol.
_OPENAI_HOSTS: Final = ("openai.com",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The deployments that serve one model name.

    Args:
        name: as requests name it.
        lane: what the pool takes for the model.
        deployments: key id -> deployment.
        provider: whose rules estimate a request before it is known who gets it.
        mode: what LiteLLM says the model is for, such as ``"embedding"``; ``None`` = not known.
        plain: LiteLLM has no rule of its own about who may serve.
    """

    name: str
    lane: str
    deployments: Mapping[str, Deployment]
    provider: Provider
    mode: str | None
    plain: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What one request may be served by: a lane, and the deployments that it stands for."""

    lane: str
    deployments: Mapping[str, Deployment]
    provider: Provider
    mode: str | None


@dataclass(slots=True)
class ModelListFleet:
    """A Router's deployments at one moment, and the pool that schedules them."""

    pool: KeyPool
    groups: Mapping[str, Group]
    seen: tuple[Deployment, ...]
    #: A pool of the user's own has its own idea of models: it can't be told of parts of a group.
    given: bool = False
    #: Deployment id -> key id; empty = they are the same.
    key_ids: Mapping[str, str] = field(default_factory=dict)

    def whole(self, name: str) -> Selection | None:
        """Return all deployments of a group without rules of LiteLLM's; ``None`` = it has some."""
        group = self.groups.get(name)
        if group is None or not group.plain:
            return None
        return Selection(
            lane=group.lane,
            deployments=group.deployments,
            provider=group.provider,
            mode=group.mode,
        )

    def part(self, model: str, deployments: Sequence[Deployment]) -> Selection | None:
        """Return those deployments that LiteLLM let through; ``None`` = none is the pool's."""
        found = {self.key_ids.get(id_of(one), id_of(one)): one for one in deployments}
        group = next(
            (g for g in self.groups.values() if not g.deployments.keys().isdisjoint(found)), None
        )
        if group is None:
            return None
        mine = {key_id: one for key_id, one in found.items() if self._known(key_id)}
        wild = "*" in group.name
        lane = group.lane
        if not self.given and (wild or mine.keys() != group.deployments.keys()):
            lane = _part_of(group, model if wild else "", mine)
        return Selection(lane=lane, deployments=mine, provider=group.provider, mode=group.mode)

    def _known(self, key_id: str) -> bool:
        return any(key_id in group.deployments for group in self.groups.values())


def _part_of(group: Group, model: str, key_ids: Iterable[str]) -> str:
    """Return the lane of some deployments of a group, or of one model of a wildcard's."""
    base = f"{bare(model)}{_AT}{group.name}" if model else group.lane
    return f"{base}{_MARK}{_MARK.join(sorted(key_ids))}{_MARK}"


def id_of(deployment: Mapping[str, Any]) -> str:
    """Return a deployment's id."""
    return str(deployment["model_info"]["id"])


def fleet_of(
    model_list: Sequence[Deployment], make: Callable[[Sequence[Organization]], KeyPool]
) -> ModelListFleet:
    """Return the fleet that a ``model_list`` describes.

    Raises:
        ConfigError: it is empty.
    """
    if not model_list:
        raise ConfigError(
            "the Router has no deployment", cure="Give it a model_list, then install quotafleet"
        )
    by_group: dict[str, list[Deployment]] = {}
    for deployment in model_list:
        by_group.setdefault(deployment["model_name"], []).append(deployment)
    labels = {name: _label(name, members) for name, members in by_group.items()}
    groups = {
        name: _group(name, f"{labels[name]}{_AT}{name}", {id_of(one): one for one in members})
        for name, members in by_group.items()
    }
    return ModelListFleet(
        pool=make(_organizations(model_list, labels)), groups=groups, seen=tuple(model_list)
    )


def fleet_in(model_list: Sequence[Deployment], pool: KeyPool) -> ModelListFleet:
    """Return the fleet of a pool of the user's own: a deployment is the key with its credential.

    Raises:
        ConfigError: a deployment's credential is none of the pool's, or the pool could choose a
            key that has no deployment in a group.
    """
    keys = {key.secret: key for key in pool.keys}
    by_group: dict[str, dict[str, Deployment]] = {}
    key_ids: dict[str, str] = {}
    for deployment in model_list:
        key = keys.get(Secret(_credential(deployment) or "(none)"))
        if key is None:
            raise ConfigError(
                f"the deployment {id_of(deployment)} of {deployment['model_name']!r} has a "
                "credential that is no key of the pool",
                cure="Put its api_key into the pool, or leave out pool= and let quotafleet make it",
            )
        by_group.setdefault(deployment["model_name"], {})[key.key_id] = deployment
        key_ids[id_of(deployment)] = key.key_id
    for name, members in by_group.items():
        _refuse_strangers(name, members, pool)
    groups = {
        name: _group(name, _model(next(iter(members.values()))), members)
        for name, members in by_group.items()
    }
    return ModelListFleet(
        pool=pool, groups=groups, seen=tuple(model_list), given=True, key_ids=key_ids
    )


def _refuse_strangers(name: str, members: Mapping[str, Deployment], pool: KeyPool) -> None:
    models = {_model(one) for one in members.values()}
    if len(models) > 1:
        raise ConfigError(
            f"the group {name!r} has several models ({', '.join(sorted(models))})",
            cure="With a pool of your own a group has one model; or leave out pool=",
        )
    model = models.pop()
    strangers = [
        key.key_id
        for key in pool.keys
        if key.key_id not in members
        and (not key.only_models or any(fnmatchcase(model, p) for p in key.only_models))
    ]
    if strangers:
        raise ConfigError(
            f"{', '.join(strangers[:8])} may serve {model!r}, but have no deployment in the "
            f"group {name!r}",
            cure="Add a deployment for each, or bar them from the model by only_models",
        )


def _group(name: str, lane: str, members: dict[str, Deployment]) -> Group:
    names = {_provider_name(one) for one in members.values()}
    return Group(
        name=name,
        lane=lane,
        deployments=members,
        provider=provider_named(names.pop() if len(names) == 1 else "generic"),
        mode=_mode(next(iter(members.values()))),
        plain="*" not in name and not any(map(_has_rules, members.values())),
    )


def _has_rules(deployment: Deployment) -> bool:
    info, params = deployment["model_info"], deployment["litellm_params"]
    return any(info.get(name) for name in _INFO_RULES) or any(
        params.get(name) for name in _PARAM_RULES
    )


def _organizations(
    model_list: Sequence[Deployment], labels: Mapping[str, str]
) -> list[Organization]:
    by_owner: dict[str, list[Deployment]] = {}
    by_credential: dict[str, str] = {}
    for deployment in model_list:
        by_owner.setdefault(_owner(deployment, by_credential), []).append(deployment)
    return [_organization(owner, members, labels) for owner, members in by_owner.items()]


def _owner(deployment: Deployment, by_credential: dict[str, str]) -> str:
    info, params = deployment["model_info"], deployment["litellm_params"]
    named = info.get("organization") or params.get("organization")
    credential = _credential(deployment)
    if named:
        owner = str(named).replace("/", "_")
    elif credential:
        # A credential has one owner, in whatever groups it stands.
        digest = hashlib.sha256(credential.encode()).hexdigest()
        return by_credential.setdefault(digest, id_of(deployment).replace("/", "_"))
    else:
        owner = id_of(deployment).replace("/", "_")
    return owner


def _organization(owner: str, members: list[Deployment], labels: Mapping[str, str]) -> Organization:
    by_label: dict[str, list[Deployment]] = {}
    for deployment in members:
        by_label.setdefault(labels[deployment["model_name"]], []).append(deployment)
    models = {
        _pattern(label): ModelLimits(
            limits=_limits(owner, same, ("rpm", "tpm")), shared="*" not in label
        )
        for label, same in by_label.items()
    }
    return Organization(
        name=owner,
        keys=tuple(_key(deployment, labels) for deployment in members),
        limits=_limits(owner, members, ("max_parallel_requests",)),
        models=models,
    )


def _pattern(label: str) -> str:
    """Return the pattern of the lanes of a model; a wildcard's lanes begin with any model."""
    return f"*{_AT}{escape(label)}*" if "*" in label else f"{escape(label)}{_AT}*"


def _key(deployment: Deployment, labels: Mapping[str, str]) -> ApiKey:
    name, key_id = deployment["model_name"], id_of(deployment)
    lane = f"{escape(labels[name])}{_AT}{escape(name)}"
    base_url = deployment["litellm_params"].get("api_base")
    return ApiKey(
        key_id=key_id,
        # Stands in for the credential, which stays with LiteLLM.
        secret=Secret(f"deployment-{hashlib.sha256(key_id.encode()).hexdigest()}"),
        organization="",
        provider=_provider_name(deployment),
        base_url=base_url if _is_url(base_url) else "",
        only_models=(lane, f"*{_MARK}{escape(key_id)}{_MARK}*"),
    )


def _limits(owner: str, members: Iterable[Deployment], names: tuple[str, ...]) -> Limits:
    """Return what deployments state of their owner; of contradictions the smallest, and say so."""
    stated: dict[str, float] = {}
    for name in names:
        values = {
            float(value)
            for deployment in members
            if (value := _stated(deployment, name)) is not None
        }
        if len(values) > 1:
            log.warning(
                "deployments of the owner %s state different %s: %s; the smallest counts, since "
                "a quota is the owner's and not a deployment's",
                owner,
                name,
                ", ".join(f"{value:g}" for value in sorted(values)),
            )
        if values:
            stated[_LIMITS[name]] = min(values)
    return Limits(**stated)


def _stated(deployment: Deployment, name: str) -> float | None:
    for place in (deployment["litellm_params"], deployment["model_info"], deployment):
        value = place.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return float(value)
    return None


def _label(name: str, members: Sequence[Deployment]) -> str:
    """Return the model's own name where a group has one, so that groups of it share its quota."""
    families = {_family(one) for one in members}
    return families.pop() if len(families) == 1 and "*" not in name else name


def _family(deployment: Deployment) -> str:
    return provider_named(_provider_name(deployment)).family(_model(deployment))


def _model(deployment: Deployment) -> str:
    told = deployment["model_info"].get("base_model")
    return bare(str(told or deployment["litellm_params"]["model"]))


def bare(model: str) -> str:
    """Return a model's name as its provider knows it: ``gpt-4o`` of ``openai/gpt-4o``."""
    try:
        return str(litellm.get_llm_provider(model)[0])
    except Exception:  # LiteLLM raises its BadRequestError, in some versions others
        return model


def _provider_name(deployment: Deployment) -> str:
    """Return the name of the rules that apply; ``model_info.quotafleet_provider`` decides."""
    info, params = deployment["model_info"], deployment["litellm_params"]
    told = info.get("quotafleet_provider")
    if told:
        return str(told)
    base_url = params.get("api_base")
    try:
        found = litellm.get_llm_provider(
            params["model"], custom_llm_provider=params.get("custom_llm_provider")
        )[1]
    except Exception:  # see `bare`
        return "generic"
    if found == "openai" and _is_url(base_url):
        host = urlsplit(str(base_url)).hostname or ""
        ours = any(host == name or host.endswith(f".{name}") for name in _OPENAI_HOSTS)
        return "openai" if ours else "generic"
    return found if found in PROVIDERS else "generic"


def _mode(deployment: Deployment) -> str | None:
    told = deployment["model_info"].get("mode")
    if told is None:
        model = str(deployment["litellm_params"]["model"])
        for name in (model, bare(model)):
            told = litellm.model_cost.get(name, {}).get("mode")
            if told:
                break
    return str(told) if told else None


def _credential(deployment: Deployment) -> str | None:
    value = deployment["litellm_params"].get("api_key")
    return value if isinstance(value, str) and value else None


def _is_url(value: object) -> bool:
    return isinstance(value, str) and value.startswith(("http://", "https://"))
