"""What single providers' errors mean, a table for each: codes, types and wordings of their own.

A row's source is the provider's documentation or an answer that it gave (2024-02 to 2026-11).
`generic` reads compatible endpoints without knowing whose they are, so it tries all tables in turn.
A row that could fit another provider's answer names a code, or a wording that only one uses.
"""

from __future__ import annotations

import re
from typing import Final

from ..limits import DAY, MINUTE, MONTH, Metric
from ..outcomes import Kind
from ._errors import Rule


def _any(*names: str) -> frozenset[str]:
    return frozenset(names)


def _text(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def _money(name: str, **conditions: object) -> Rule:
    return Rule(name=name, kind=Kind.QUOTA_EXHAUSTED, scope="organization", **conditions)  # type: ignore[arg-type]


def _capacity(name: str, **conditions: object) -> Rule:
    return Rule(name=name, kind=Kind.OVERLOADED, scope="provider", model_only=True, **conditions)  # type: ignore[arg-type]


def _limit(name: str, *, model_only: bool = True, **conditions: object) -> Rule:
    return Rule(
        name=name,
        kind=Kind.RATE_LIMITED,
        scope="owner",
        model_only=model_only,
        **conditions,  # type: ignore[arg-type]
    )


#: Page "Rate limits" and "Errors" (2025-11, 2026).
ANTHROPIC: Final = (
    _money(
        "anthropic spend limit",
        codes=_any("enforced_spend_limit_reached"),
        metric=Metric.SPEND,
        period=MONTH,
    ),
    Rule(
        name="anthropic workspace spend limit",
        kind=Kind.QUOTA_EXHAUSTED,
        scope="project",
        text=_text(r"reached your specified workspace API usage limits"),
        metric=Metric.SPEND,
        period=MONTH,
    ),
    _money(
        "anthropic spend limit",
        text=_text(r"reached your specified API usage limits|monthly API spend cap"),
        metric=Metric.SPEND,
        period=MONTH,
    ),
    Rule(
        name="anthropic long context",
        kind=Kind.TOO_LARGE,
        scope="owner",
        text=_text(r"Extra usage is required for long context"),
        model_only=True,
    ),
    _limit(
        "anthropic connections",
        text=_text(r"Number of concurrent connections"),
        metric=Metric.CONCURRENT,
        model_only=False,
    ),
    Rule(
        name="anthropic unknown model",
        kind=Kind.ACCESS_DENIED,
        scope="owner",
        types=_any("not_found_error"),
        text=_text(r"^model: \S+$"),
        model_only=True,
    ),
    Rule(
        name="anthropic key",
        kind=Kind.KEY_INVALID,
        scope="key",
        types=_any("authentication_error"),
        text=_text(r"invalid x-api-key|invalid bearer token|API key"),
    ),
    _capacity("anthropic overloaded", types=_any("overloaded_error")),
    _capacity("anthropic overloaded", types=_any("api_error"), text=_text(r"^Overloaded$")),
)

#: Pages "Rate limits" and "Troubleshooting" (2026); recorded answers.
GEMINI: Final = (
    _capacity("gemini capacity", codes=_any("MODEL_CAPACITY_EXHAUSTED")),
    _capacity(
        "vertex shared capacity",
        types=_any("RESOURCE_EXHAUSTED"),
        text=_text(r"^Resource exhausted\. Please try again later"),
    ),
    Rule(
        name="gemini key",
        kind=Kind.KEY_INVALID,
        scope="key",
        codes=_any("API_KEY_INVALID", "API_KEY_SERVICE_BLOCKED"),
    ),
    Rule(
        name="vertex takes no API key",
        kind=Kind.KEY_INVALID,
        scope="key",
        text=_text(r"API keys are not supported by this API"),
    ),
    _limit("gemini quota", types=_any("RESOURCE_EXHAUSTED")),
    Rule(
        name="gemini project denied",
        kind=Kind.ACCESS_DENIED,
        scope="organization",
        text=_text(r"project has been denied access"),
    ),
    Rule(
        name="gemini unknown model",
        kind=Kind.ACCESS_DENIED,
        scope="owner",
        text=_text(r"models?/\S+ (?:is|was) not found"),
        model_only=True,
    ),
    Rule(
        name="gemini input too long",
        kind=Kind.TOO_LARGE,
        text=_text(r"input token count .{0,40}exceeds the maximum"),
    ),
    _capacity("gemini unavailable", types=_any("UNAVAILABLE")),
)

#: Page "Quotas and limits" (2026-09); recorded answers.
AZURE: Final = (
    _capacity("azure capacity", codes=_any("no_capacity")),
    Rule(
        name="azure deployment",
        kind=Kind.ACCESS_DENIED,
        scope="owner",
        codes=_any("DeploymentNotFound"),
        model_only=True,
    ),
    Rule(
        name="azure resource",
        kind=Kind.ACCESS_DENIED,
        scope="owner",
        text=_text(r"^Resource not found$"),
        statuses=frozenset({404}),
        model_only=True,
        certain=False,
    ),
    _limit(
        "azure tokens",
        text=_text(r"exceeded token rate limit of your current"),
        metric=Metric.TOKENS,
        period=MINUTE,
    ),
    _limit(
        "azure calls",
        text=_text(r"exceeded call rate limit of your current"),
        metric=Metric.REQUESTS,
    ),
    Rule(
        name="github models request size",
        kind=Kind.TOO_LARGE,
        scope="owner",
        codes=_any("tokens_limit_reached"),
        model_only=True,
    ),
    _limit(
        "github models rate limit",
        codes=_any("RateLimitReached"),
        text=_text(r"Rate limit of [0-9]+ per [0-9]+s"),
        metric=Metric.REQUESTS,
    ),
    _limit("azure rate limit", codes=_any("RateLimitReached", "TooManyRequests")),
    Rule(name="azure content filter", kind=Kind.CONTENT, codes=_any("content_filter")),
)

#: The class stands in the header x-amzn-errortype.
BEDROCK: Final = (
    Rule(
        name="bedrock key",
        kind=Kind.KEY_INVALID,
        scope="key",
        types=_any(
            "UnrecognizedClientException", "ExpiredTokenException", "InvalidSignatureException"
        ),
    ),
    Rule(
        name="bedrock input too long",
        kind=Kind.TOO_LARGE,
        types=_any("ValidationException"),
        text=_text(r"Input Tokens Exceeded|input is too long"),
    ),
    Rule(
        name="bedrock access",
        kind=Kind.ACCESS_DENIED,
        scope="owner",
        types=_any("AccessDeniedException"),
        model_only=True,
    ),
    _limit(
        "bedrock throttling", types=_any("ThrottlingException", "ServiceQuotaExceededException")
    ),
    _capacity(
        "bedrock capacity", types=_any("ServiceUnavailableException", "ModelNotReadyException")
    ),
    Rule(
        name="bedrock validation",
        kind=Kind.BAD_REQUEST,
        types=_any("ValidationException"),
        certain=False,
    ),
)

#: Page "Errors" and "Limits" (2026-10); recorded answers.
OPENROUTER: Final = (
    _limit(
        "openrouter free models a day",
        text=_text(r"free-models-per-day"),
        metric=Metric.REQUESTS,
        period=DAY,
        model_only=False,
    ),
    _limit(
        "openrouter free models a minute",
        text=_text(r"free-models-per-min"),
        metric=Metric.REQUESTS,
        period=MINUTE,
        model_only=False,
    ),
    _limit(
        "openrouter calls in flight",
        codes=_any("in_flight_budget_exhausted", "openrouter_in_flight_budget"),
        model_only=False,
    ),
    Rule(
        name="openrouter call too dear",
        kind=Kind.TOO_LARGE,
        scope="organization",
        codes=_any("weight_exceeds_budget"),
    ),
    Rule(
        name="openrouter key cap",
        kind=Kind.QUOTA_EXHAUSTED,
        scope="key",
        codes=_any("openrouter_key_limit"),
    ),
    Rule(
        name="openrouter key cap",
        kind=Kind.QUOTA_EXHAUSTED,
        scope="key",
        text=_text(
            r"Key limit exceeded|API key budget limit exceeded"
            r"|Prompt tokens limit exceeded.{0,80}settings/keys"
        ),
    ),
    _money(
        "openrouter budget",
        codes=_any("openrouter_workspace_budget", "openrouter_guardrail_budget"),
    ),
    _money("openrouter credits", text=_text(r"requires more credits, or fewer max_tokens")),
    Rule(
        name="openrouter moderation",
        kind=Kind.CONTENT,
        text=_text(r"\b(?:input|prompt) was flagged|requires moderation"),
    ),
    _capacity("openrouter upstream", text=_text(r"rate-limited upstream")),
)

GROQ: Final = (
    _capacity("groq flex capacity", codes=_any("capacity_exceeded")),
    Rule(
        name="groq request too large",
        kind=Kind.TOO_LARGE,
        scope="owner",
        text=_text(r"^Request too large for model"),
        model_only=True,
    ),
    Rule(name="groq tool call", kind=Kind.BAD_REQUEST, codes=_any("tool_use_failed")),
)

MISTRAL: Final = (
    _capacity("mistral capacity", text=_text(r"Service tier capacity exceeded")),
    _limit("mistral rate limit", types=_any("rate_limited")),
)

XAI: Final = (
    _money("xai credits", text=_text(r"used all available credits|monthly spending limit")),
    _limit("xai rate limit", codes=_any("Some resource has been exhausted")),
)

COHERE: Final = (
    _money(
        "cohere trial month",
        text=_text(r"limited to [0-9,]+ API calls ?/ ?month"),
        metric=Metric.REQUESTS,
        period=MONTH,
    ),
    Rule(name="cohere input too long", kind=Kind.TOO_LARGE, types=_any("TOO_MANY_TOKENS")),
    Rule(
        name="cohere model",
        kind=Kind.ACCESS_DENIED,
        scope="owner",
        text=_text(r"^model '[^']{1,200}' (?:not found|was removed)"),
        model_only=True,
    ),
)

CEREBRAS: Final = (
    _limit("cerebras requests", codes=_any("request_quota_exceeded"), metric=Metric.REQUESTS),
    _limit("cerebras tokens", codes=_any("token_quota_exceeded"), metric=Metric.TOKENS),
)

MOONSHOT: Final = (
    _money("moonshot quota", types=_any("exceeded_current_quota_error")),
    _money("moonshot plan", types=_any("access_terminated_error")),
    _capacity("moonshot engine", text=_text(r"engine is currently overloaded")),
    _capacity("moonshot crowded", text=_text(r"receiving too many requests at the moment")),
    _limit(
        "moonshot organization limit",
        text=_text(r"request reached organization|reached (?:the )?organization"),
        model_only=False,
    ),
)

#: Numeric codes under 429; times without a zone are of UTC+8.
ZHIPU: Final = (
    _limit("zhipu rate limit", codes=_any("1302", "1303", "1305")),
    _money("zhipu balance", codes=_any("1113")),
    _money("zhipu plan window", codes=_any("1308", "1310"), utc_offset=8.0),
    Rule(name="zhipu key", kind=Kind.KEY_INVALID, scope="key", codes=_any("1000", "1001", "1002")),
)

DASHSCOPE: Final = (
    # Two projects measured that this "quota" is back within a minute.
    _limit("dashscope throttle", codes=_any("insufficient_quota"), text=_text(r"#token-limit")),
    _limit(
        "dashscope throttle",
        codes=_any(
            "Throttling", "Throttling.RateQuota", "Throttling.AllocationQuota", "limit_requests"
        ),
    ),
    Rule(
        name="dashscope free tier",
        kind=Kind.QUOTA_EXHAUSTED,
        scope="organization",
        codes=_any("AllocationQuota.FreeTierOnly"),
        model_only=True,
    ),
    _money("dashscope arrears", codes=_any("Arrearage")),
)

MINIMAX: Final = (
    _money("minimax balance", codes=_any("base_resp:1008")),
    _money("minimax balance", text=_text(r"insufficient balance \(1008\)")),
    _limit("minimax tokens", codes=_any("base_resp:1039"), metric=Metric.TOKENS, period=MINUTE),
    _limit("minimax requests", codes=_any("base_resp:1002")),
    Rule(
        name="minimax key",
        kind=Kind.KEY_INVALID,
        scope="key",
        codes=_any("base_resp:1004", "base_resp:2049"),
    ),
    Rule(name="minimax content", kind=Kind.CONTENT, codes=_any("base_resp:1026", "base_resp:1027")),
    _capacity("minimax busy", codes=_any("base_resp:1000", "base_resp:1013", "base_resp:1033")),
)

FIREWORKS: Final = (
    _capacity("fireworks deadline", text=_text(r"first token before the given deadline")),
)

NVIDIA: Final = (
    Rule(
        name="nvidia key",
        kind=Kind.KEY_INVALID,
        scope="key",
        text=_text(r"^Forbidden Authorization failed$|^Authorization failed$"),
    ),
    Rule(
        name="nvidia function",
        kind=Kind.ACCESS_DENIED,
        scope="owner",
        text=_text(r"\bFunction .{1,200}Not found for account"),
        model_only=True,
    ),
)

OLLAMA: Final = (
    _limit("ollama hour", text=_text(r"reached your hourly usage limit"), model_only=False),
    _money("ollama usage", text=_text(r"reached your (?:session|weekly) usage limit")),
    Rule(
        name="ollama context",
        kind=Kind.TOO_LARGE,
        text=_text(r"prompt too long; exceeded max context length"),
    ),
)

OTHERS: Final = (
    _limit("together unpaid", types=_any("credit_limit")),
    _money("cloudflare neurons", codes=_any("4006"), period=DAY),
    _money("opencode subscription", types=_any("SubscriptionUsageLimitError")),
    _capacity("opencode upstream", text=_text(r"^Error from provider \([^)]{1,80}\): Too many")),
    _money(
        "new-api balance", codes=_any("insufficient_user_quota", "pre_consume_token_quota_failed")
    ),
    Rule(
        name="perplexity prompt",
        kind=Kind.TOO_LARGE,
        types=_any("too_many_prompt_tokens"),
    ),
    Rule(
        name="lm studio context",
        kind=Kind.TOO_LARGE,
        text=_text(r"loaded with context length of only"),
    ),
)

#: All tables; Zhipu's codes are plain numbers, so its rows come last.
ALL: Final = (
    *(*ANTHROPIC, *GEMINI, *AZURE, *BEDROCK, *OPENROUTER, *GROQ, *MISTRAL, *XAI, *COHERE),
    *(*CEREBRAS, *MOONSHOT, *DASHSCOPE, *FIREWORKS, *NVIDIA, *OLLAMA, *OTHERS),
    *(*MINIMAX, *ZHIPU),
)
