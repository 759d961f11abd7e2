"""Any endpoint that speaks OpenAI's protocol and is not OpenAI.

Requests have OpenAI's shape and are estimated alike; limits, headers and error codes are read as
far as they follow OpenAI, the IETF's RateLimit fields, or common wording. Every model has its own
bucket, and real usage replaces the estimate when a call is settled, since most providers count it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from ..keys import ApiKey
from ..outcomes import Kind, Observation, Outcome
from ..protocols import Plan, TokenCounter
from ..tokens import bytes4
from ..usage import Usage
from . import _dialects, _errors, _limit_headers
from ._errors import Rule
from .openai import _estimate, _usage
from .openai import _taxonomy as openai
from .openai._estimate import Reserve


def _text(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_UNPAID: Final = frozenset({400, 402, 403, 412, 429})

#: Wordings that providers share. Each names a state of the account, the key, the model or the
#: service in words that describe nothing else.
WORDINGS: Final = (
    Rule(
        name="key refused",
        kind=Kind.KEY_INVALID,
        scope="key",
        text=_text(
            r"\b(?:invalid|incorrect|wrong|missing|bad)\b.{0,40}"
            r"\b(?:api[ _-]?key|authentication header|auth(?:entication)? credentials?"
            r"|access token)"
            r"|\bapi[ _-]?key\b.{0,40}\b(?:not valid|invalid|incorrect|expired|revoked|disabled)"
            r"|security token .{0,40}\binvalid|authentication fails|no cookie auth credentials"
        ),
        statuses=frozenset({400, 401, 403}),
    ),
    Rule(
        name="no credit",
        kind=Kind.QUOTA_EXHAUSTED,
        scope="organization",
        text=_text(
            r"insufficient[ _](?:account[ _])?(?:balance|credits?|funds|quota)"
            r"|\bbalance is (?:too low|insufficient)|\b(?:out of|no) credits?\b|payment required"
            r"|\b(?:account|billing|organization)\b.{0,80}"
            r"\b(?:suspended|not active|inactive|restricted|overdue|in arrears)\b"
            r"|\b(?:spend(?:ing)?|budget|billing) (?:limit|cap)\b.{0,40}"
            r"\b(?:reached|exceeded|exhausted|hit)\b"
            r"|\b(?:reached|exceeded|used)\b.{0,60}"
            r"\b(?:spend(?:ing)?|monthly|weekly|included|subscription)\b.{0,30}"
            r"\b(?:limit|cap|credits?|quota|allocation)\b"
            r"|\bquota (?:has been )?exhausted|(?:recharge|top up) (?:your|the)"
            r"|余额不足|欠费|额度不足|额度已用|账户余额|充值"
        ),
        statuses=_UNPAID,
    ),
    # Another's limit, behind the one that was asked, or nobody's.
    Rule(
        name="no capacity",
        kind=Kind.OVERLOADED,
        scope="provider",
        text=_text(
            r"rate-limited upstream|high demand|temporarily unable|\bat capacity\b"
            r"|\b(?:server|service|model) (?:is )?(?:too )?busy\b|capacity (?:was )?exceeded"
        ),
        statuses=frozenset({429, 500, 502, 503, 529}),
        model_only=True,
    ),
    Rule(
        name="input too long",
        kind=Kind.TOO_LARGE,
        text=_text(
            r"context length|context window|\b(?:prompt|input|messages?) (?:is |are )?too long"
            r"|too many (?:input |prompt )?tokens|exceeds? .{0,30}\bmax(?:imum)?\b.{0,30}\btokens"
        ),
        statuses=frozenset({400, 413, 422}),
    ),
    Rule(
        name="flagged content",
        kind=Kind.CONTENT,
        text=_text(
            r"\bcontent[ _](?:policy|filter|management)|\bwas flagged\b|flagged (?:by|as|for)\b"
            r"|\bmoderation\b"
        ),
        statuses=frozenset({400, 403, 422}),
    ),
    Rule(
        name="unknown model",
        kind=Kind.ACCESS_DENIED,
        scope="owner",
        text=_text(
            r"\bmodel\b.{0,200}\b(?:not found|does not exist|was removed|decommissioned)"
            r"|\bno such model|\bunknown model|\bfunction\b.{0,200}\bnot found for account"
        ),
        statuses=frozenset({404, 410}),
        model_only=True,
    ),
)
_STATUSES: Final = tuple(
    # Compatible endpoints use OpenAI's type for whatever is wrong, so it proves nothing.
    replace(rule, certain=False) if rule.kind is Kind.BAD_REQUEST else rule
    for rule in openai.STATUSES
)
#: What single providers' errors mean, then OpenAI's codes, then shared wordings, then the status.
RULES: Final = (
    *_dialects.ALL,
    *(*openai.CODES, *openai.TYPES),
    *(*WORDINGS, *openai.WORDINGS),
    *_STATUSES,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generic:
    """The rules of an OpenAI-compatible endpoint, as a `Provider`.

    Args:
        name: its name in a configuration.
        base_url: where requests go; a key must name its own where this is empty.
        reserve: as for `OpenAI`. Take ``"max_tokens"`` where the provider counts ``max_tokens``
            at admission (Azure OpenAI and Cerebras document that).
        count_tokens: as for `OpenAI`.
    """

    name: str = "generic"
    base_url: str = ""
    reserve: Reserve = "auto"
    count_tokens: TokenCounter = bytes4

    def family(self, model: str) -> str:
        """Return the model's own name: which models share a limit is not known."""
        return model

    def plan(self, method: str, path: str, content_type: str, body: bytes) -> Plan:
        """Read a request as OpenAI would."""
        policy = _estimate.Policy(reserve=self.reserve, count_tokens=self.count_tokens)
        return _estimate.plan(method, path, content_type, body, policy)

    def credentials(self, key: ApiKey) -> Mapping[str, str | None]:
        """Return the key as a bearer token; ids of OpenAI's are nobody else's business."""
        return {
            "authorization": f"Bearer {key.secret.reveal()}",
            "openai-organization": None,
            "openai-project": None,
        }

    def observe(self, status: int, headers: Mapping[str, str]) -> Observation:
        """Read the rate-limit headers of any provider that names what and how long it counts."""
        return _limit_headers.observe(headers)

    def read(self, status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Read what an answer meant."""
        return _errors.answer(status, headers, body, RULES)

    def read_event(self, data: bytes) -> Outcome | None:
        """Read an event of a stream; ``None`` = no error."""
        return _errors.event(data, RULES)

    def usage(self, endpoint: str, tail: bytes) -> Usage | None:
        """Read real usage from the end of an answer; ``None`` = not there."""
        return _usage.usage(tail)

    def charge(self, plan: Plan, usage: Usage | None) -> Usage:
        """Return what was really used where it is known, else the estimate."""
        return _usage.charge(plan, usage, true_up=frozenset({plan.endpoint}))
