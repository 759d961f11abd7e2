"""The tokens that a request costs at admission: one table of pure functions, `PROFILES`.

`chat_2025`: bytes / 4; `chat_2024`: prompt + `max_tokens`; `docs_max` and `azure_standard`: the
larger of `max_tokens` and the estimate; `reserve_max_tokens`: input + `max_tokens`, settled to the
real usage at the end (AWS Bedrock). `ModelSpec.profiles` and `LimitRules.profiles` choose one by
endpoint. The profiles of OpenAI were measured on recorded traffic, 2023-10..2026-08, on accounts
with limits low enough to see the charge of one request. OpenAI's guide states `docs_max`; since
2025-03 the headers contradict it (`chat_2025`). Requests always cost 1, and images their number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

IMAGE_TOKENS: Final = 765  # charged per image part, whatever its size (measured, 2024-02..2026-08)
UNSTATED_OUTPUT: Final = 4_096  # reserved when max_tokens is not given, by `reserve_max_tokens`
DEFAULT_MAX_TOKENS: Final = 16  # charged when max_tokens is not given (measured, 2023-10..2025-03)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSize:
    """The facts of a request that its cost depends on.

    Attributes:
        text_bytes: UTF-8 bytes of all message, prompt or input text.
        messages: number of chat messages.
        images: image parts in the input.
        n: answers asked for (`n`; images: pictures to make).
        max_tokens: the caller's cap on the output of one answer.
        prompts: number of prompts (completions) or inputs (embeddings).
        token_ids: number of token ids, when the input is token ids instead of text.
        tool_bytes: bytes of the compact JSON of `tools`.
        tools: function tools are offered.
        forced: a tool, or one of them, must be called.
        cached_tokens: input tokens known to be in the prompt cache.
        best_of: legacy completions generate this many and return the best.
    """

    text_bytes: int = 0
    messages: int = 0
    images: int = 0
    n: int = 1
    max_tokens: int | None = None
    prompts: int = 1
    token_ids: int | None = None
    tool_bytes: int = 0
    tools: bool = False
    forced: bool = False
    cached_tokens: int = 0
    best_of: int = 1

    @property
    def input_tokens(self) -> int:
        """The input as a tokeniser would count it, at four bytes a token."""
        if self.token_ids is not None:
            return self.token_ids
        return -(-(self.text_bytes + self.tool_bytes) // 4)


NOTHING_ASKED: Final = RequestSize()


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputPrediction:
    """The output that the Responses limiter reserves before it knows better, in tokens."""

    plain: int
    tools: int
    image: int
    forced: int


# Measured 2025-05..2026-08; the longest prefix of the model's name wins.
_PREDICTIONS: Final[Mapping[str, OutputPrediction]] = {
    "": OutputPrediction(plain=217, tools=496, image=348, forced=600),
    "gpt-4": OutputPrediction(plain=19, tools=217, image=19, forced=217),
    "gpt-5-nano": OutputPrediction(plain=217, tools=496, image=348, forced=600),
    "gpt-5.4": OutputPrediction(plain=163, tools=449, image=348, forced=600),
    "gpt-5.5": OutputPrediction(plain=163, tools=449, image=348, forced=600),
}


def predicted_output(ask: RequestSize, model: str) -> int:
    """Return the tokens of output that the provider expects of this request."""
    row = _PREDICTIONS[max((p for p in _PREDICTIONS if model.startswith(p)), key=len)]
    if ask.forced:
        return row.forced
    if ask.tools:
        return row.tools
    return row.image if ask.images else row.plain


def _text_up(ask: RequestSize) -> int:
    return -(-ask.text_bytes // 4)


def _cap(ask: RequestSize) -> int:
    return ask.max_tokens or DEFAULT_MAX_TOKENS


def _chat_2025(ask: RequestSize, _model: str) -> int:
    return -(-ask.text_bytes // 4) + ask.messages + ask.n + IMAGE_TOKENS * ask.images


def _chat_2024(ask: RequestSize, _model: str) -> int:
    return _text_up(ask) + ask.messages + ask.n * _cap(ask) + IMAGE_TOKENS * ask.images


def _docs_max(ask: RequestSize, _model: str) -> int:
    return max(_cap(ask), _text_up(ask)) * ask.n


def _completions(ask: RequestSize, _model: str) -> int:
    size = ask.text_bytes // 4 if ask.token_ids is None else ask.token_ids
    return size + ask.prompts * ask.n


def _embeddings(ask: RequestSize, _model: str) -> int:
    return max(1, ask.text_bytes // 4 if ask.token_ids is None else ask.token_ids)


def _tts(ask: RequestSize, _model: str) -> int:
    return ask.text_bytes // 4


def _responses_2026(ask: RequestSize, model: str) -> int:
    return ask.input_tokens + predicted_output(ask, model)


def _azure_standard(ask: RequestSize, _model: str) -> int:
    return max(_cap(ask), _text_up(ask)) * ask.best_of


def _azure_ptu(ask: RequestSize, model: str) -> int:
    expected = predicted_output(ask, model) if ask.max_tokens is None else ask.max_tokens
    return ask.input_tokens - ask.cached_tokens + expected


def _reserve_max_tokens(ask: RequestSize, _model: str) -> int:
    return ask.input_tokens + (UNSTATED_OUTPUT if ask.max_tokens is None else ask.max_tokens)


def _anthropic(ask: RequestSize, _model: str) -> int:
    return ask.input_tokens


def _requests_only(_ask: RequestSize, _model: str) -> int:
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CostProfile:
    """How tokens are charged: the estimate at admission, and whether it is settled at the end."""

    estimate: Callable[[RequestSize, str], int]
    true_up: bool = False
    counts_tokens: bool = True


PROFILES: Final[Mapping[str, CostProfile]] = {
    "chat_2025": CostProfile(estimate=_chat_2025),
    "chat_2024": CostProfile(estimate=_chat_2024),
    "docs_max": CostProfile(estimate=_docs_max),
    "completions": CostProfile(estimate=_completions),
    "embeddings": CostProfile(estimate=_embeddings),
    "tts": CostProfile(estimate=_tts),
    "responses_2026": CostProfile(estimate=_responses_2026, true_up=True),
    "azure_standard": CostProfile(estimate=_azure_standard),
    "azure_ptu": CostProfile(estimate=_azure_ptu, true_up=True),
    "reserve_max_tokens": CostProfile(estimate=_reserve_max_tokens, true_up=True),
    "anthropic": CostProfile(estimate=_anthropic, true_up=True),
    "requests_only": CostProfile(estimate=_requests_only, counts_tokens=False),
}
