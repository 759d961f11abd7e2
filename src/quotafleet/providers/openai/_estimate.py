"""What OpenAI's limiter charges a request at admission.

Measured on recorded traffic of organizations with low limits (2025-03-20 to 2026-08), where it
differs from the documentation, which says "the maximum of max_tokens and the estimated number of
tokens based on the character count" (page "Rate limits", 2023 to autumn 2026):

    chat completions  ceil(B/4) + M + n + 765 for each image; max_tokens is ignored
    completions       floor(B/4) + prompts * n
    embeddings        max(1, floor(B/4)); token ids count one each
    speech            floor(B/4)
    responses         input tokens by the real tokenizer, with tools, + predicted output

B are UTF-8 bytes of message text, M messages, n choices. Roles, names, tool schemas, calls and
response formats are free in Chat Completions. What isn't listed costs one request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ...protocols import Plan, TokenCounter
from ...tokens import bytes4, size
from ...usage import Demand
from .._json import count, fields, items, parse, text

#: ``"auto"`` reserves what was measured; ``"max_tokens"`` the larger of that and of what is
#: documented, ``max(max_tokens or 16, ceil(B/4)) * n``, which admits least at once.
Reserve = Literal["auto", "max_tokens"]

#: LLM tokens that any image in a prompt is charged, whatever its size.
_IMAGE: Final = 765
#: What `max_tokens` was taken to be where a request left it out.
_DEFAULT_MAX: Final = 16
#: LLM tokens around a prompt and around each message; exact on 690 of 694 recorded requests.
_PROMPT: Final = 3
_MESSAGE: Final = 4

#: Predicted output on Responses: model prefix -> plain, with function tools, with images. The last
#: row is that of gpt-5-nano, the highest seen.
_PREDICTED: Final = (
    ("gpt-4o", 19, 217, 19),
    ("gpt-4.1", 19, 217, 19),
    ("gpt-5.4", 163, 449, 356),
    ("gpt-5.5", 163, 449, 356),
    ("", 217, 496, 356),
)

#: Fields of a multipart form, near its beginning or its end: clients put files among them. All
#: repetitions are bounded, so that no body makes this slow.
_FORM_FIELD: Final = re.compile(
    rb'name="(model|n|stream)"\r\n(?:[^\r\n]{1,200}\r\n){0,4}\r\n([^\r\n]{1,128})\r\n'
)
_FORM_EDGE: Final = 16_384

Request = Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How requests are estimated.

    Args:
        reserve: which formula counts.
        count_tokens: counts texts where the provider's real tokenizer does (Responses).
    """

    reserve: Reserve = "auto"
    count_tokens: TokenCounter = bytes4


#: What a request costs, besides one request: tokens of input and of output, images made, and the
#: most tokens of output that the request allows.
_Cost = tuple[int, int, int, int | None]


def plan(method: str, path: str, content_type: str, body: bytes, policy: Policy) -> Plan:
    """Read a request. What isn't known, or isn't JSON, costs one request."""
    route = path.partition("?")[0].strip("/").removeprefix("v1/")
    if method.upper() != "POST":
        return Plan(endpoint="other", demand=Demand())
    if "multipart/" in content_type.lower():
        return _form_plan(_FORMS.get(route, "other"), body)
    endpoint, price = _PRICES.get(route, ("other", _nothing))
    if endpoint == "other" and "json" not in content_type.lower():
        return Plan(endpoint="other", demand=Demand())
    request = fields(parse(body))
    if not request:
        return Plan(endpoint=endpoint, demand=Demand())
    input_tokens, output_tokens, images, most = price(request, policy)
    return Plan(
        endpoint=endpoint,
        demand=Demand(
            model=text(request.get("model")),
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            images=images,
        ),
        stream=request.get("stream") is True,
        max_output_tokens=most,
    )


def _nothing(request: Request, policy: Policy) -> _Cost:
    return 0, 0, 0, None


def _chat(request: Request, policy: Policy) -> _Cost:
    messages = items(request.get("messages"))
    volume, images = 0, 0
    for message in messages:
        content = fields(message).get("content")
        if isinstance(content, str):
            volume += size(content)
            continue
        for part in map(fields, items(content)):
            volume += size(text(part.get("text")))
            images += part.get("type") in ("image_url", "input_image")
    choices = _choices(request)
    limit = _first(request, "max_completion_tokens", "max_tokens")
    tokens = -(-volume // 4) + len(messages) + _IMAGE * images
    documented = max(limit or _DEFAULT_MAX, -(-volume // 4)) * choices
    return _generated(tokens, choices, choices, limit, documented, policy)


def _completions(request: Request, policy: Policy) -> _Cost:
    volume, ids, prompts = _prompts(request.get("prompt"))
    # best_of answers are made, n of them are sent.
    choices = max(_choices(request), count(request.get("best_of")) or 1)
    limit = _first(request, "max_tokens")
    made = max(1, prompts) * choices
    documented = max(limit or _DEFAULT_MAX, -(-volume // 4) + ids) * made
    return _generated(volume // 4 + ids, made, made, limit, documented, policy)


def _embeddings(request: Request, policy: Policy) -> _Cost:
    volume, ids, _ = _prompts(request.get("input"))
    return max(1, volume // 4 + ids), 0, 0, None


def _speech(request: Request, policy: Policy) -> _Cost:
    return size(text(request.get("input"))) // 4, 0, 0, None


def _images(request: Request, policy: Policy) -> _Cost:
    return 0, 0, _choices(request), None


def _responses(request: Request, policy: Policy) -> _Cost:
    model = text(request.get("model"))
    given = request.get("input")
    texts = [
        part
        for item in ([given] if isinstance(given, str) else items(given))
        for part in _texts(item)
    ]
    messages = 1 if isinstance(given, str) else len(items(given))
    instructions = text(request.get("instructions"))
    tools = items(request.get("tools"))
    images = sum(_images_in(item) for item in items(given))
    if instructions:
        texts.append(instructions)
    if tools:
        texts.append(json.dumps(tools, separators=(",", ":"), ensure_ascii=False))
    tokens = sum(_tokens(part, model, policy) for part in texts)
    # An earlier answer or a conversation that the request refers to is not known here: it is
    # debited when the call is settled.
    tokens += _PROMPT + _MESSAGE * (messages + bool(instructions)) + _IMAGE * images
    predicted = _predicted(model, tools, images)
    limit = _first(request, "max_output_tokens")
    return _generated(tokens, predicted, 1, limit, tokens + (limit or 0), policy)


def _generated(
    tokens: int, predicted: int, choices: int, limit: int | None, documented: int, policy: Policy
) -> _Cost:
    """Return the cost of `tokens` that go in and `predicted` ones that come out."""
    if policy.reserve == "max_tokens":
        predicted = max(predicted, documented - tokens)
    return tokens, predicted, 0, None if limit is None else limit * choices


def _predicted(model: str, tools: Sequence[object], images: int) -> int:
    base = model.removeprefix("ft:")
    _, plain, calling, seeing = next(row for row in _PREDICTED if base.startswith(row[0]))
    if any(fields(tool).get("type") == "function" for tool in tools):
        return calling  # built-in tools count as plain
    return seeing if images else plain


def _prompts(value: object) -> tuple[int, int, int]:
    """Return UTF-8 bytes, token ids and number of prompts of a text, ids, or a list of either."""
    if isinstance(value, str):
        return size(value), 0, 1
    given = items(value)
    if given and isinstance(given[0], int):
        return 0, len(given), 1
    volume = sum(size(text(prompt)) for prompt in given)
    return volume, sum(len(items(prompt)) for prompt in given), len(given)


def _texts(item: object) -> Iterator[str]:
    """Yield the texts of an input item that the model reads."""
    if isinstance(item, str):
        yield item
        return
    found = fields(item)
    for name in ("content", "arguments", "output", "input"):
        value = found.get(name)
        if isinstance(value, str):
            yield value
        for part in map(fields, items(value)):
            yield text(part.get("text"))


def _images_in(item: object) -> int:
    parts = items(fields(item).get("content"))
    return sum(fields(part).get("type") == "input_image" for part in parts)


def _tokens(part: str, model: str, policy: Policy) -> int:
    """Count with the user's counter; one that fails doesn't stop the call."""
    try:
        return max(0, int(policy.count_tokens(part, model)))
    except Exception:  # it is foreign code, and an estimate is only an estimate
        return bytes4(part, model)


def _choices(request: Request) -> int:
    return count(request.get("n")) or 1


def _first(request: Request, *names: str) -> int | None:
    for name in names:
        found = count(request.get(name))
        if found:
            return found
    return None


def _form_plan(endpoint: str, body: bytes) -> Plan:
    edges = body if len(body) <= 2 * _FORM_EDGE else body[:_FORM_EDGE] + body[-_FORM_EDGE:]
    form = {name: value.decode("utf-8", "replace") for name, value in _FORM_FIELD.findall(edges)}
    number = form.get(b"n", "1")
    images = int(number) if number.isascii() and number.isdigit() and len(number) < 4 else 1
    return Plan(
        endpoint=endpoint,
        demand=Demand(
            model=form.get(b"model", "").strip(),
            images=max(1, images) if endpoint == "images" else 0,
        ),
        stream=form.get(b"stream") == "true",
    )


#: Path -> endpoint, and what a JSON request to it costs.
_PRICES: Final[dict[str, tuple[str, Callable[[Request, Policy], _Cost]]]] = {
    "chat/completions": ("chat", _chat),
    "completions": ("completions", _completions),
    "responses": ("responses", _responses),
    "embeddings": ("embeddings", _embeddings),
    "audio/speech": ("audio", _speech),
    "images/generations": ("images", _images),
    "images/edits": ("images", _images),
}
#: Path -> endpoint of a multipart request, which costs one request, and the images it makes.
_FORMS: Final = {
    "audio/transcriptions": "audio",
    "audio/translations": "audio",
    "images/edits": "images",
    "images/variations": "images",
}
