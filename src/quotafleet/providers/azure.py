"""Azure OpenAI's rules: OpenAI's, with the key in ``api-key`` and the deployment in the path.

A resource is an organization with ``base_url = "https://NAME.openai.azure.com/openai"``. Quota is
counted per deployment (page "Quotas and limits", autumn 2026), so its name stands for the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from ..keys import ApiKey
from ..outcomes import Observation, Outcome
from ..protocols import Plan
from . import _errors, _limit_headers
from .generic import RULES
from .openai import OpenAI

__all__ = ["AzureOpenAI"]

_DEPLOYMENT: Final = re.compile(r"/?deployments/([^/?]+)/(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureOpenAI(OpenAI):
    """Azure OpenAI's rules, as a `Provider`; the arguments are those of `OpenAI`."""

    name: str = "azure"
    #: Each resource has its own; this one never resolves (RFC 6761).
    base_url: str = "http://azure-resource.invalid/openai"

    def plan(self, method: str, path: str, content_type: str, body: bytes) -> Plan:
        """Read a request; the deployment in its path is the model."""
        found = _DEPLOYMENT.fullmatch(path)
        if found is None:
            return OpenAI.plan(self, method, path, content_type, body)
        plan = OpenAI.plan(self, method, found[2], content_type, body)
        return plan._replace(demand=replace(plan.demand, model=found[1]))

    def credentials(self, key: ApiKey) -> Mapping[str, str | None]:
        """Return the key as Azure's own header; there are no organizations."""
        return {
            "api-key": key.secret.reveal(),
            "authorization": None,
            "openai-organization": None,
            "openai-project": None,
        }

    def observe(self, status: int, headers: Mapping[str, str]) -> Observation:
        """Read what an answer's headers say; Azure names the period in a header of its own."""
        return _limit_headers.observe(headers)

    def read(self, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Read what an answer meant: Azure has codes of its own, and serves others' models."""
        return _errors.answer(status, headers, body, RULES, counts_refused=True)

    def read_event(self, data: bytes) -> Outcome | None:
        """Read an event of a stream; ``None``: no error."""
        return _errors.event(data, RULES)
