"""Errors as outcomes: a body is read into a `Fault`, the first `Rule` that fits gives the outcome.

Rules stand in a table, in the order in which evidence counts: the provider's code, its type, the
wording, and only then the status, since 429 alone may mean a full bucket, an empty purse or an
overloaded model. A provider has its own table; reading, masking and measuring are shared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from ..keys import ScopeKind
from ..limits import Metric
from ..outcomes import OK, Kind, Outcome
from . import _json, _wording
from ._durations import after, duration, retry_after, until
from ._headers import amount

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

#: OpenAI counts the tokens of what it then refuses for its content (400 on Chat Completions,
#: Completions and Embeddings, measured). Every provider counts what it began to answer.
_BEGUN: Final = frozenset({Kind.SERVER_ERROR, Kind.TIMEOUT})
_REFUSED: Final = frozenset({Kind.BAD_REQUEST, Kind.CONTENT, Kind.TOO_LARGE})
#: Waiting doesn't help, whatever the headers say.
_FINAL: Final = frozenset(
    {Kind.BAD_REQUEST, Kind.CONTENT, Kind.TOO_LARGE, Kind.KEY_INVALID, Kind.ACCESS_DENIED}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What an error's answer states.

    Args:
        status: of the HTTP answer; for an error inside a stream, the one it would have had.
        code: the provider's main code, ``""``: none.
        codes: all codes, of the error and of its details and metadata.
        types: its types, of the body and of the header ``x-amzn-errortype``.
        message: its texts as they came, joined: they may hold a key or the prompt.
        headers: of an upstream's answer that the body quotes, in lower case.
        violations: quotas that were exceeded, by identifier, and their limits where stated.
        delay: seconds until a retry helps, as a field of the body states; ``None``: not stated.
        resets_at: the instant when the quota is back, as a field of the body states; ``""``: not.
        gateway: the body is HTML, so it comes from something in front of the API.
        streamed: it came inside an answer that had begun.
    """

    status: int
    code: str = ""
    codes: frozenset[str] = frozenset()
    types: frozenset[str] = frozenset()
    message: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[tuple[str, str], ...] = ()
    delay: float | None = None
    resets_at: str = ""
    gateway: bool = False
    streamed: bool = False

    @property
    def is_error(self) -> bool:
        """Whether it states any error at all."""
        return bool(self.code or self.types or self.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One row of a taxonomy. All conditions that are given must hold.

    Args:
        kind: what it means.
        scope: whose state it is; ``"owner"``: the project if the text names one, else the
            organization. ``None``: it concerns this request only.
        codes: the provider's codes.
        types: its types.
        text: occurs in the message.
        statuses: of the answer.
        gateway: the answer came from something in front of the API.
        model_only: it holds for this model only.
        metric: what was counted, where only the rule knows.
        period: likewise the seconds.
        utc_offset: hours by which instants without a zone are ahead of UTC.
        certain: a code or a documented wording proves it. False: the status alone suggests it.
        name: names the row in `quotafleet explain`; ``""``: its kind does.
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
    utc_offset: float = 0.0
    certain: bool = True
    name: str = ""

    def fits(self, fault: Fault) -> bool:
        """Whether the row is about this fault."""
        return (
            (not self.codes or not self.codes.isdisjoint(fault.codes))
            and (not self.types or not self.types.isdisjoint(fault.types))
            and (self.statuses is None or fault.status in self.statuses)
            and (not self.gateway or fault.gateway)
            and (self.text is None or self.text.search(fault.message) is not None)
        )


def fault(status: int, body: bytes, headers: Mapping[str, str]) -> Fault:
    """Read an error's body: an object with an ``error``, a bare one, a list of one, or no JSON."""
    body = body.strip() if len(body) <= _LONGEST_BODY else b""
    if body.startswith(b"<"):
        return Fault(status=status, message="(an HTML page)", gateway=True)
    value = _json.parse(body)
    if isinstance(value, list) and value:
        value = value[0]  # Gemini, on its OpenAI-compatible endpoint
    types = frozenset({headers.get("x-amzn-errortype", "").partition(":")[0]}) - {""}
    if isinstance(value, dict):
        found = _described(status, value)
        return replace(found, types=found.types | types) if types else found
    text = value if isinstance(value, str) else body[:4_000].decode("utf-8", "replace")
    return Fault(status=status, types=types, message=text)


#: An error that is no ``null``, or MiniMax's field.
_UNDER_SUCCESS: Final = re.compile(rb'"error"\s{0,8}:\s{0,8}[{"]|"base_resp"')


def under_success(body: bytes) -> Fault | None:
    """Read an error that came with HTTP 200; ``None``: the body states none.

    OpenRouter answers so once it asked an upstream, MiniMax always. An ordinary answer costs one
    search: its texts have their quotes escaped, so they don't look like these keys.
    """
    if not _UNDER_SUCCESS.search(body):
        return None
    value = _json.fields(_json.parse(body)) if len(body) <= _LONGEST_BODY else {}
    base = _json.fields(value.get("base_resp"))
    if not isinstance(value.get("error"), dict | str) and base.get("status_code") in (None, 0):
        return None
    found = _described(200, value)
    return replace(found, status=_status_in(found) or 500) if found.is_error else None


def streamed(value: Mapping[str, object]) -> Fault | None:
    """Read an event of a stream; ``None``: it states no error."""
    if value.get("type") in ("response.failed", "response.error"):
        found = _described(500, _json.fields(value.get("response")))
    elif value.get("error") or value.get("type") == "error":
        found = _described(500, value)
    else:
        return None
    return replace(found, status=_status_in(found) or 500, streamed=True)


def _status_in(found: Fault) -> int | None:
    """Return the HTTP status that a code stands for: OpenRouter's codes are statuses."""
    return int(found.code) if found.code.isdecimal() and len(found.code) == 3 else None


def outcome(
    found: Fault,
    rules: Iterable[Rule],
    headers: Mapping[str, str],
    *,
    counts_refused: bool = False,
) -> Outcome:
    """Return what a fault means by the first rule that fits; the last one must fit everything.

    Args:
        found: what the answer states.
        rules: the provider's table.
        headers: the answer's, in lower case.
        counts_refused: the provider counts the tokens of a prompt that it refuses with 400.
    """
    rule = next(rule for rule in rules if rule.fits(found))
    stated = _wording.read(found.message, rule.utc_offset)
    kind, scope = rule.kind, rule.scope
    metric, period = rule.metric, rule.period
    limit = used = requested = None
    if kind is Kind.TOO_LARGE and scope is None:
        limit, requested = _wording.context(found.message)
    elif kind in (Kind.RATE_LIMITED, Kind.TOO_LARGE):
        told_metric, told_period, limit = _quota(stated, found)
        metric = told_metric if metric is None else metric
        period = told_period if period is None else period
        used, requested = stated.used, stated.requested
        if limit == 0:  # a limit of nothing: the owner has no access to this model
            kind = Kind.ACCESS_DENIED
    if kind is Kind.QUOTA_EXHAUSTED:
        limit = stated.limit
    return Outcome(
        kind=kind,
        scope=("project" if stated.project else "organization") if scope == "owner" else scope,
        metric=metric,
        period=period,
        limit=limit,
        used=used,
        requested=requested,
        retry_after=None if kind in _FINAL else _wait(stated, found, headers),
        model_only=rule.model_only,
        charged=found.streamed
        or kind in _BEGUN
        or (counts_refused and found.status == 400 and kind in _REFUSED and scope is None),
        code=_label(found.code) or next(iter(sorted(filter(None, map(_label, found.types)))), ""),
        message=masked(found.message),
        certain=rule.certain,
        rule=rule.name or kind.value,
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


def answer(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    rules: Iterable[Rule],
    *,
    counts_refused: bool = False,
) -> Outcome:
    """Return what a whole answer means: a success, or an error, which may come under HTTP 200."""
    if 200 <= status < 300:
        found = under_success(body)
        if found is None:
            return OK
    else:
        found = fault(status, body, headers)
    return outcome(found, rules, headers, counts_refused=counts_refused)


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


#: Fields of an error, its details and its metadata, by what they hold.
_CODES: Final = ("code", "error_code", "error_type", "limit_source", "provider_code", "reason")
_TYPES: Final = ("type", "status", "error_type")
_TEXTS: Final = ("message", "status_msg", "title", "detail", "details", "raw", "error")


def _described(status: int, value: Mapping[str, object]) -> Fault:
    """Read an error object, and what it holds one level deeper."""
    inner = value.get("error") or next(iter(_json.items(value.get("errors"))), None)
    source = _json.fields(inner) or value
    base = _json.fields(value.get("base_resp"))
    metadata = _json.fields(source.get("metadata"))
    details = [_json.fields(one) for one in _json.items(source.get("details"))]
    details += [
        _json.fields(one)
        for one in (source.get("details"), source.get("detail"))
        if one is not None
    ]
    places = [source, value, metadata, base, *details]
    codes = [_code(place.get(name)) for place in places for name in _CODES]
    codes += [f"base_resp:{code}" for code in [_code(base.get("status_code"))] if code]
    types = [_json.text(place.get(name)) for place in (source, value, metadata) for name in _TYPES]
    texts = [
        _json.text(place.get(name)) for place in (source, value, metadata, base) for name in _TEXTS
    ]
    return Fault(
        status=status,
        code=_code(source.get("code")) or next(filter(None, codes), ""),
        codes=frozenset(filter(None, codes)),
        types=frozenset(filter(None, types)) - {"error"},
        message=" ".join(dict.fromkeys(filter(None, texts))),
        headers={
            name.lower(): str(held)
            for name, held in _json.fields(metadata.get("headers")).items()
            if isinstance(held, str | int)
        },
        violations=tuple(_violations(details)),
        delay=next(
            filter(None, (duration(_json.text(one.get("retryDelay"))) for one in details)), None
        ),
        resets_at=next(filter(None, (_code(place.get("resets_at")) for place in places)), ""),
    )


def _violations(details: Iterable[Mapping[str, object]]) -> Iterator[tuple[str, str]]:
    """Yield the quotas of google.rpc.QuotaFailure and ErrorInfo, and their limits."""
    for detail in details:
        for violation in map(_json.fields, _json.items(detail.get("violations"))):
            names = (_json.text(violation.get(name)) for name in ("quotaId", "quotaMetric"))
            yield " ".join(names), _code(violation.get("quotaValue"))
        metadata = _json.fields(detail.get("metadata"))
        if name := _json.text(metadata.get("quota_limit")):
            yield name, _code(metadata.get("quota_limit_value"))


def _code(value: object) -> str:
    return str(value) if type(value) is int else _json.text(value)


_WORDS: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|_")


def _quota(
    stated: _wording.RefusalText, found: Fault
) -> tuple[Metric | None, float | None, float | None]:
    """Return metric, period and limit; of several exceeded quotas, that of the longest period."""
    metric, period, limit = stated.metric, stated.period, stated.limit
    if metric is None and period is None:
        for name, kind in (("requests", Metric.REQUESTS), ("tokens", Metric.TOKENS)):
            metric = kind if name in found.types else metric
    quotas = [
        (*_wording.counted(_WORDS.sub(" ", name)), amount(value) if value else None)
        for name, value in found.violations
    ]
    if quotas:
        counted, span, value = max(quotas, key=lambda quota: quota[1] or 0.0)
        metric = metric if counted is None else counted
        period = period if span is None else span
        limit = limit if value is None else value
    if limit is None and "x-ratelimit-limit" in found.headers:
        limit = amount(found.headers["x-ratelimit-limit"])
    return metric, period, limit


def _wait(stated: _wording.RefusalText, found: Fault, headers: Mapping[str, str]) -> float | None:
    """Return the longest of what headers, fields and text state: all are minimums."""
    date = headers.get("date", "")
    reset = found.resets_at or found.headers.get("x-ratelimit-reset", "")
    waits = (
        stated.retry_after,
        found.delay,
        after(stated.resumes_at, date),
        until(reset, date) if reset else None,
        retry_after(found.headers, found.status),
        retry_after(headers, found.status),
    )
    return max((wait for wait in waits if wait is not None), default=None)


def _label(code: str) -> str:
    """Return a code that is one, and no free text or key."""
    return code if _CODE.fullmatch(code) and not _CREDENTIAL.search(code) else ""
