"""What a call really used, from the end of its answer."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

from ...protocols import Plan
from ...usage import Demand, Usage
from .._json import count, fields

_KEY: Final = b'"usage"'
_VALUE: Final = re.compile(rb"\s{0,100}:\s{0,100}(?=\{)")
#: Bytes that a usage object takes at most; those recorded have some 500.
_LONGEST: Final = 4_096
#: How many of the last ``"usage"`` keys are looked at: a stream may end in several nulls, and
#: Responses echo the request's tool schemas, which may have a property of that name.
_TRIES: Final = 8
_DECODER: Final = json.JSONDecoder()


def usage(tail: bytes) -> Usage | None:
    """Find the last usage object in the end of a JSON body or of a stream of events.

    Inside strings the key's quotes are escaped, so that text of the model is never taken for it.
    """
    end = len(tail)
    for _ in range(_TRIES):
        end = tail.rfind(_KEY, 0, end)
        if end < 0:
            return None
        found = _object(tail, end + len(_KEY))
        read = count(found.get("prompt_tokens", found.get("input_tokens")))
        written = count(found.get("completion_tokens", found.get("output_tokens")))
        if read is not None or written is not None:
            return Usage(input_tokens=read or 0, output_tokens=written or 0)
    return None


#: Responses are corrected to real usage when they are complete (measured, gpt-5 models, 2026-05 to
#: 2026-08). Elsewhere no debit after admission is visible: the estimate stays.
TRUE_UP: Final = frozenset({"responses"})


def charge(plan: Plan, used: Usage | None, *, true_up: frozenset[str] = TRUE_UP) -> Usage:
    """Return what the limits counted: real usage on the endpoints in `true_up`, else the plan."""
    demand = plan.demand
    spend = used.spend if used and used.spend else demand.spend
    counted: Usage | Demand = used if used and plan.endpoint in true_up else demand
    return Usage(
        input_tokens=counted.input_tokens,
        output_tokens=counted.output_tokens,
        images=demand.images,
        requests=demand.requests,
        spend=spend,
    )


def _object(tail: bytes, start: int) -> Mapping[str, object]:
    colon = _VALUE.match(tail, start)
    if colon is None:
        return {}
    try:
        text = tail[colon.end() : colon.end() + _LONGEST].decode("utf-8", "replace")
        value: object = _DECODER.raw_decode(text)[0]
    except (ValueError, RecursionError):
        return {}
    return fields(value)
