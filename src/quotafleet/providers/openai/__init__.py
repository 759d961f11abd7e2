"""OpenAI's rules: what a request costs, what headers and errors mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Final, get_args

from ...errors import ConfigError
from ...keys import ApiKey
from ...outcomes import Observation, Outcome
from ...protocols import Plan, TokenCounter
from ...tokens import bytes4
from ...usage import Usage
from .. import _errors
from . import _estimate, _headers, _usage
from ._estimate import Reserve
from ._taxonomy import RULES

__all__ = ["OpenAI", "Reserve"]

#: The date of a snapshot (``-2024-08-06``, before 2024 ``-0613``): it shares its alias's limits.
_SNAPSHOT: Final = re.compile(r"-(?:20\d\d-\d\d-\d\d|(?:0[1-9]|1[0-2])(?:[0-2]\d|3[01]))$")
#: Models whose long requests have limits of their own, and where those begin.
LONG_CONTEXT: Final[Mapping[str, int]] = {"gpt-5.5": 272_000}


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAI:
    """OpenAI's rules, as a `Provider`.

    Args:
        reserve: ``"auto"`` reserves what OpenAI's limiter was measured to charge at admission
            (recorded traffic, 2025-03 to 2026-08), which ignores ``max_tokens``.
            ``"max_tokens"`` reserves the larger of that and of the documented formula (page "Rate
            limits", autumn 2026): ``max(max_tokens or 16, bytes / 4) * n``; on Responses at least
            ``max_output_tokens`` of output. It sends less at once, and is never the smaller.
        count_tokens: counts texts where the real tokenizer does (Responses only); see
            `quotafleet.tokens.counter`.
        families: model -> name of the bucket, for models that your limits page lists under one
            "shared limit".
        long_context: model -> most input tokens under its usual limits. A request beyond them is
            planned for ``"MODEL-long-context"``, which has limits of its own (page "gpt-5.5",
            autumn 2026).
        name: its name in a configuration.
        base_url: where requests go when a key names no other place.

    Raises:
        ConfigError: `reserve` is neither.
    """

    reserve: Reserve = "auto"
    count_tokens: TokenCounter = bytes4
    families: Mapping[str, str] = field(default_factory=dict)
    long_context: Mapping[str, int] = field(default_factory=lambda: LONG_CONTEXT)
    name: str = "openai"
    base_url: str = "https://api.openai.com/v1"

    _policy: _estimate.Policy = field(init=False, repr=False, compare=False)
    _shortest: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.reserve not in get_args(Reserve):
            raise ConfigError(
                f"reserve = {self.reserve!r} is not known", cure='Write "auto" or "max_tokens"'
            )
        policy = _estimate.Policy(reserve=self.reserve, count_tokens=self.count_tokens)
        object.__setattr__(self, "_policy", policy)
        object.__setattr__(self, "_shortest", min(self.long_context.values(), default=inf))

    def family(self, model: str) -> str:
        """Return the bucket's name: a fine-tuned model's base, without a snapshot's date."""
        base = model.split(":", 2)[1] if model.startswith("ft:") else model.partition(":ft-")[0]
        base = _SNAPSHOT.sub("", base)
        return self.families.get(model, self.families.get(base, base))

    def plan(self, method: str, path: str, content_type: str, body: bytes) -> Plan:
        """Read a request; see `quotafleet.providers.openai._estimate`."""
        plan = _estimate.plan(method, path, content_type, body, self._policy)
        if plan.demand.input_tokens <= self._shortest:
            return plan
        family = self.family(plan.demand.model)
        if plan.demand.input_tokens <= self.long_context.get(family, inf):
            return plan
        return plan._replace(demand=replace(plan.demand, model=f"{family}-long-context"))

    def credentials(self, key: ApiKey) -> Mapping[str, str | None]:
        """Return the key as a bearer token, and its ids where it has them."""
        return {
            "authorization": f"Bearer {key.secret.reveal()}",
            "openai-organization": key.organization_id,
            "openai-project": key.project_id,
        }

    def observe(self, status: int, headers: Mapping[str, str]) -> Observation:
        """Read what an answer's headers say of the owner's quota, whatever its status."""
        return _headers.observe(headers)

    def read(self, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Read what an answer meant."""
        return _errors.answer(status, headers, body, RULES, counts_refused=True)

    def read_event(self, data: bytes) -> Outcome | None:
        """Read an event of a stream, bare or with its ``data:`` lines; ``None`` = no error."""
        return _errors.event(data, RULES)

    def usage(self, endpoint: str, tail: bytes) -> Usage | None:
        """Read real usage from the end of an answer; ``None`` = not there."""
        return _usage.usage(tail)

    def charge(self, plan: Plan, usage: Usage | None) -> Usage:
        """Return the estimate, and for Responses what was really used."""
        return _usage.charge(plan, usage)
