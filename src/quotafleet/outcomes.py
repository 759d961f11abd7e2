"""What an answer meant: its outcome, and what its headers said of the owner's quota."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NamedTuple

from .keys import ScopeKind
from .limits import Metric


class Kind(Enum):
    """The kinds of outcome. What is done about each is a table in the core."""

    OK = "ok"
    RATE_LIMITED = "rate_limited"
    SLOW_DOWN = "slow_down"
    QUOTA_EXHAUSTED = "quota_exhausted"
    KEY_INVALID = "key_invalid"
    ACCESS_DENIED = "access_denied"
    TOO_LARGE = "request_too_large"
    OVERLOADED = "overloaded"
    SERVER_ERROR = "server_error"
    TIMEOUT = "timeout"
    NETWORK = "network"
    BAD_REQUEST = "bad_request"
    CONFLICT = "conflict"
    CONTENT = "content"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one attempt's answer meant.

    Args:
        kind: what happened.
        scope: whose state it tells of: the key (revoked), the project or organization (a limit,
            no credit), the provider (overloaded). ``None`` = of nobody's, such as a bad request.
        metric: for a rate limit, what was counted; ``None`` = not told.
        period: for a rate limit, the period in seconds; ``None`` = not told.
        limit: the limit that the answer named.
        used: how much of it was used, as the answer told.
        requested: how much this attempt asked for, as the answer told.
        retry_after: seconds before which a retry is useless; a minimum. ``None`` = not told.
        model_only: it holds for the attempt's model (family), not for the scope's other models.
        charged: whether the provider counted the attempt's tokens.
        code: the provider's own code or type, for logs; never free text.
        message: the provider's text, shortened, for the person; it holds no secret.
        certain: a code or a documented wording proves the kind. False where the status alone
            suggests it: such an answer concerns the request until another owner's answer says more.
        rule: the name of the row that decided, for ``quotafleet explain``.
    """

    kind: Kind
    scope: ScopeKind | None = None
    metric: Metric | None = None
    period: float | None = None
    limit: float | None = None
    used: float | None = None
    requested: float | None = None
    retry_after: float | None = None
    model_only: bool = False
    charged: bool = False
    code: str = ""
    message: str = ""
    certain: bool = True
    rule: str = ""
    #: Whether the answer was a success; asked for many times a call.
    ok: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ok", self.kind is Kind.OK)


#: A success that told nothing else.
OK: Final = Outcome(kind=Kind.OK, charged=True)


class Reading(NamedTuple):
    """What one group of headers said of one bucket. A tuple, as every answer makes some.

    Args:
        metric: what it counts.
        limit: the limit, in units of the metric per `period`.
        level: what the bucket held after this request was charged, as exactly as the headers
            tell it (a reset in milliseconds tells more than a rounded remainder).
        period: seconds; ``None`` = the headers don't tell and it can't be inferred.
        burst: the capacity, where it can be inferred and differs from `limit`.
        project: the bucket is the project's, not the organization's.
    """

    metric: Metric
    limit: float
    level: float
    period: float | None = None
    burst: float | None = None
    project: bool = False


class Observation(NamedTuple):
    """What the headers of one answer said.

    Args:
        readings: one for each bucket that they told of.
        organization_id: the organization that the provider says the key belongs to.
        project_id: likewise the project.
        headers_at_admission: the readings tell the state at the request's admission, not at its
            completion. ignored: how many headers were malformed (NaN, negative, empty, absurd) and
            not believed.
    """

    readings: tuple[Reading, ...] = ()
    organization_id: str | None = None
    project_id: str | None = None
    headers_at_admission: bool = True
    ignored: int = 0

    @property
    def tells_of_project(self) -> bool:
        """Whether some reading is of a project's bucket."""
        for reading in self.readings:  # noqa: SIM110 - a generator costs more than both readings
            if reading.project:
                return True
        return False


#: No header told anything.
NOTHING: Final = Observation()
