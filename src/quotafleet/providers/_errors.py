"""Errors as outcomes: a body is read into a `Fault`, the first `Rule` that fits gives the outcome.

Rules stand in a table, in the order in which evidence counts: the provider's code, its type, the
wording, and only then the status, since 429 alone may mean a full bucket, an empty purse or an
overloaded model. A provider has its own table; reading, masking and measuring are shared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from ..keys import ScopeKind
from ..limits import Metric
from ..outcomes import Kind, Outcome
from . import _json, _wording
from ._durations import retry_after

#: Bytes. A longer body is no error of an API.
_LONGEST_BODY: Final = 1 << 20
_LONGEST_MESSAGE: Final = 300

#: What looks like a credential: known prefixes, long random runs, 32 hexadecimal digits.
_CREDENTIAL: Final = re.compile(
    r"(?<![A-Za-z0-9])(?:(?:sk|pk|rk|gsk|xai|key|hf|csk|fw|nvapi|pplx|tgp)[-_]|AIza)"
    r"[-_A-Za-z0-9*]{8,}"
    r"|\bBearer [^\s\"']{8,}"
    r"|[-_A-Za-z0-9]{40,}"
    r"|\b[0-9a-fA-F]{32}\b"
)
_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.:-]{0,63}|[0-9]{3}")

#: A provider counts the tokens of what it then refuses for its content (400 on Chat Completions,
#: Completions and Embeddings, measured), and of what it began to answer.
_BEGUN: Final = frozenset({Kind.SERVER_ERROR, Kind.TIMEOUT})
_REFUSED: Final = frozenset({Kind.BAD_REQUEST, Kind.CONTENT, Kind.TOO_LARGE})
#: Waiting doesn't help, whatever the headers say.
_FINAL: Final = frozenset(
    {Kind.BAD_REQUEST, Kind.CONTENT, Kind.TOO_LARGE, Kind.KEY_INVALID, Kind.ACCESS_DENIED}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What an error's body told.

    Args:
        status: of the HTTP answer; for an error inside a stream, the one it would have had.
        code: the provider's code, ``""`` = none.
        type: the provider's type, ``""`` = none.
        message: its text as it came: it may hold a key or the prompt.
        gateway: the body is HTML, so it comes from something in front of the API.
        streamed: it came inside an answer that had begun.
    """

    status: int
    code: str = ""
    type: str = ""
    message: str = ""
    gateway: bool = False
    streamed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row of a taxonomy. All conditions that are given must hold.

    Args:
        kind: what it means.
        scope: whose state it tells of; ``"owner"`` = the project if the text names one, else the
            organization.
        codes: the provider's codes.
        types: its types.
        text: occurs in the message.
        statuses: of the answer.
        gateway: the answer came from something in front of the API.
        model_only: it holds for this model only.
        metric: what was counted, where only the rule knows.
        period: likewise the seconds.
    """

    kind: Kind
    scope: ScopeKind | Literal["owner"] | None = None
    codes: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    text: re.Pattern[str] | None = None
    statuses: range | frozenset[int] | None = None
    gateway: bool = False
    model_only: bool = False
    metric: Metric | None = None
    period: float | None = None

    def fits(self, fault: Fault) -> bool:
        """Whether the row is about this fault."""
        return (
            (not self.codes or fault.code in self.codes)
            and (not self.types or fault.type in self.types)
            and (self.statuses is None or fault.status in self.statuses)
            and (not self.gateway or fault.gateway)
            and (self.text is None or self.text.search(fault.message) is not None)
        )


def fault(status: int, body: bytes) -> Fault:
    """Read an error's body: an object with an ``error``, a bare one, a list of one, or no JSON."""
    body = body.strip() if len(body) <= _LONGEST_BODY else b""
    if body.startswith(b"<"):
        return Fault(status=status, message="(an HTML page)", gateway=True)
    value = _json.parse(body)
    if isinstance(value, list) and value:
        value = value[0]  # Gemini
    if isinstance(value, dict):
        return _described(status, value)
    if isinstance(value, str):
        return Fault(status=status, message=value)
    return Fault(status=status, message=body[:4_000].decode("utf-8", "replace"))


def streamed(value: Mapping[str, object]) -> Fault | None:
    """Read an event of a stream; ``None`` = it tells of no error."""
    if value.get("type") in ("response.failed", "response.error"):
        found = _described(500, _json.fields(value.get("response")))
    elif value.get("error") or value.get("type") == "error":
        found = _described(500, value)
    else:
        return None
    # OpenRouter sends the status of the answer it stands for as the code.
    status = int(found.code) if found.code.isdecimal() and len(found.code) == 3 else 500
    return Fault(
        status=status, code=found.code, type=found.type, message=found.message, streamed=True
    )


def outcome(found: Fault, rules: Iterable[Rule], headers: Mapping[str, str]) -> Outcome:
    """Return what a fault means by the first rule that fits; the last one must fit everything."""
    rule = next(rule for rule in rules if rule.fits(found))
    told = _wording.told(found.message)
    kind, scope = rule.kind, rule.scope
    metric, period = rule.metric, rule.period
    limit = used = requested = None
    if kind is Kind.TOO_LARGE and scope is None:
        limit, requested = _wording.context(found.message)
    elif kind in (Kind.RATE_LIMITED, Kind.TOO_LARGE):
        metric, period = _counted(told, found), told.period
        limit, used, requested = told.limit, told.used, told.requested
        if limit == 0:  # a limit of nothing: the owner has no access to this model
            kind = Kind.ACCESS_DENIED
    return Outcome(
        kind=kind,
        scope=("project" if told.project else "organization") if scope == "owner" else scope,
        metric=metric,
        period=period,
        limit=limit,
        used=used,
        requested=requested,
        retry_after=None if kind in _FINAL else _wait(told, found, headers),
        model_only=rule.model_only,
        charged=found.streamed
        or kind in _BEGUN
        or (found.status == 400 and kind in _REFUSED and scope is None),
        code=_label(found.code) or _label(found.type),
        message=masked(found.message),
    )


def event(data: bytes, rules: Iterable[Rule]) -> Outcome | None:
    """Return what an event of a stream means if it is an error, else ``None``.

    Called for every event: ordinary ones cost one search. Inside texts of the model the quotes
    are escaped, so that they don't look like the key ``"error"``.
    """
    if b'"error"' not in data:
        return None
    found = streamed(_json.fields(_json.parse(_payload(data))))
    return None if found is None else outcome(found, rules, {})


def _payload(data: bytes) -> bytes:
    """Return an event's data, which may come with the lines of its framing."""
    if data.lstrip().startswith(b"{"):
        return data
    lines = (line.strip() for line in data.splitlines())
    return b"\n".join(line[5:].strip() for line in lines if line.startswith(b"data:"))


def masked(text: str) -> str:
    """Return a text on one line, shortened, with everything that looks like a key masked."""
    text = _CREDENTIAL.sub("***", " ".join(text[:4_000].split()))
    return text if len(text) <= _LONGEST_MESSAGE else text[: _LONGEST_MESSAGE - 1] + "…"


def _described(status: int, value: Mapping[str, object]) -> Fault:
    inner = value.get("error")
    source = _json.fields(inner) or value
    message = _json.text(inner) or next(
        (text for name in ("message", "detail") if (text := _json.text(source.get(name)))), ""
    )
    code = source.get("code")
    return Fault(
        status=status,
        code=str(code) if isinstance(code, int) else _json.text(code),
        type=_json.text(source.get("type")) or _json.text(source.get("status")),
        message=message,
    )


def _counted(told: _wording.Told, found: Fault) -> Metric | None:
    """Return what was counted; the error's type tells it only where the text doesn't."""
    if told.metric is not None or told.period is not None:
        return told.metric
    return {"requests": Metric.REQUESTS, "tokens": Metric.TOKENS}.get(found.type)


def _wait(told: _wording.Told, found: Fault, headers: Mapping[str, str]) -> float | None:
    """Return the longer of what headers and text tell: both are minimums."""
    waits = (told.retry_after, retry_after(headers, found.status))
    return max((wait for wait in waits if wait is not None), default=None)


def _label(code: str) -> str:
    """Return a code that is one, and no free text or key."""
    return code if _CODE.fullmatch(code) and not _CREDENTIAL.search(code) else ""
