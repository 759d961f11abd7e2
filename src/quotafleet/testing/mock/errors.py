"""Every refusal of the OpenAI API that the mock can make, word for word where that is known.

Sources: OpenAI Error codes and Rate limits guides, autumn 2026, and recorded error answers,
2023-10..2026-08. Clients read these texts (the delay and the scope stand nowhere else), so the
templates are exact. A text the sources only describe is marked *paraphrased*.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from .bucket import go_ms

# Limits of one embeddings request.
MAX_INPUTS: Final = 2_048
MAX_INPUT_TOKENS: Final = 8_192
MAX_REQUEST_TOKENS: Final = 300_000
_LIMITS_PAGE = "Visit https://platform.openai.com/account/rate-limits to learn more."
_KINDS: Final[Mapping[type, str]] = {
    bool: "a boolean",
    dict: "an object",
    float: "a decimal number",
    int: "an integer",
    list: "an array",
    str: "a string",
    type(None): "null",
}
_ADD_PAYMENT = (
    " You can increase your rate limit by adding a payment method to your account at"
    " https://platform.openai.com/account/billing."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MockError:
    """An error answer: HTTP status and the four fields of OpenAI's `error` object.

    Attributes:
        reason: the name under which the mock counts it.
        retry_after_s: seconds for the header `retry-after`; ``None``: no such header.
        limited: rate-limit headers go with it.
        body: a whole body in place of the `error` object.
    """

    status: int
    type: str | None
    code: str | None
    message: str
    param: str | None = None
    reason: str
    retry_after_s: float | None = None
    limited: bool = False
    body: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitOwner:
    """Who was refused, as the texts name it: the model asked for, its owner, the shared limit."""

    model: str
    org: str
    project: str | None = None  # only when the limit is the project's own
    family: str | None = None  # only when the limit is shared under another name
    free: bool = False

    def __str__(self) -> str:
        family = f" (for limit {self.family})" if self.family else ""
        project = f"project {self.project} " if self.project else ""
        return f"{self.model}{family} in {project}organization {self.org}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitShortage:
    """Which limit was short, in the provider's own units."""

    label: str  # as in "tokens per min (TPM)"
    type: str  # the error's type: requests, tokens, input-images
    limit: int
    used: int
    requested: int
    period_s: float
    reason: str
    scale: float = 1.0  # factor on the delay that the text states

    @property
    def delay_s(self) -> float:
        """Seconds the text asks to wait; published texts reproduce exactly (12 of 12)."""
        short = self.used + self.requested - self.limit
        return short * self.period_s / self.limit * self.scale


def rate_limited(where: LimitOwner, short: LimitShortage, wait_s: float) -> MockError:
    """429: a bucket holds less than the request needs."""
    message = (
        f"Rate limit reached for {where} on {short.label}: Limit {short.limit},"
        f" Used {short.used}, Requested {short.requested}."
        f" Please try again in {go_ms(short.delay_s)}. {_LIMITS_PAGE}"
        f"{_ADD_PAYMENT if where.free else ''}"
    )
    return _limit_problem(short, message, wait_s)


def unstated(problem: MockError) -> MockError:
    """Return a refusal that states neither the limit nor a delay."""
    text = "Rate limit exceeded, please try again later."
    return replace(problem, message=text, retry_after_s=None, limited=False)


def dalle_limited(where: LimitOwner, short: LimitShortage, wait_s: float) -> MockError:
    """429 of the DALL-E models, which state no time to wait."""
    message = (
        f"Rate limit exceeded for images per minute in organization {where.org}."
        f" Limit: {short.limit}/1min. Current: {short.used + short.requested}/1min."
    )
    return _limit_problem(short, message, wait_s)


def too_large(where: LimitOwner, short: LimitShortage) -> MockError:
    """429: the request needs more than the whole bucket; waiting will never help."""
    message = (
        f"Request too large for {where} on {short.label}: Limit {short.limit},"
        f" Requested {short.requested}. The input or output tokens must be reduced in order to"
        f" run successfully. {_LIMITS_PAGE}"
    )
    return _limit_problem(short, message, None, reason="too_large")


def _limit_problem(
    short: LimitShortage, message: str, wait_s: float | None, *, reason: str | None = None
) -> MockError:
    return MockError(
        status=429,
        type=short.type,
        code="rate_limit_exceeded",
        message=message,
        reason=reason or short.reason,
        retry_after_s=wait_s,
        limited=True,
    )


def _invalid(status: int, code: str | None, message: str, param: str | None = None) -> MockError:
    return MockError(
        status=status,
        type="invalid_request_error",
        code=code,
        message=message,
        param=param,
        reason=code or "invalid_request",
    )


def invalid_api_key(secret: str) -> MockError:
    """401: unknown or revoked key; the text shows its first 8 and last 4 characters."""
    hidden = "*" * max(3, len(secret) - 12)
    shown = f"{secret[:8]}{hidden}{secret[-4:]}" if len(secret) > 12 else "*" * len(secret)
    return _invalid(
        401,
        "invalid_api_key",
        f"Incorrect API key provided: {shown}. You can find your API key at"
        " https://platform.openai.com/account/api-keys.",
    )


def no_api_key() -> MockError:
    """401: no `Authorization: Bearer` header at all."""
    return _invalid(
        401,
        None,
        "You didn't provide an API key. You need to provide your API key in an Authorization"
        " header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY), or as the password field"
        " (with blank username) if you're accessing the API from your browser and are prompted for"
        " a username and password. You can obtain an API key from"
        " https://platform.openai.com/account/api-keys.",
    )


def ip_not_authorized() -> MockError:
    """401: the key may only be used from certain addresses (paraphrased)."""
    return _invalid(
        401, "ip_not_authorized", "Your IP address is not authorized to access this API key."
    )


def model_not_found(model: str, *, responses: bool = False) -> MockError:
    """404, or 400 on Responses: no such model."""
    if responses:
        return _invalid(
            400, "model_not_found", f"The requested model '{model}' does not exist.", "model"
        )
    return _invalid(
        404,
        "model_not_found",
        f"The model `{model}` does not exist or you do not have access to it.",
    )


def model_denied(project: str, model: str) -> MockError:
    """403: the model exists, this project may not use it."""
    return _invalid(
        403, "model_not_found", f"Project `{project}` does not have access to model `{model}`"
    )


def context_length(limit: int, asked: int, *, responses: bool = False) -> MockError:
    """400: the input alone is longer than the model can read."""
    if responses:
        message = (
            "Your input exceeds the context window of this model."
            " Please adjust your input and try again."
        )
        return _invalid(400, "context_length_exceeded", message, "input")
    message = (
        f"This model's maximum context length is {limit} tokens. However, your messages resulted"
        f" in {asked} tokens. Please reduce the length of the messages."
    )
    return _invalid(400, "context_length_exceeded", message, "messages")


def bad_json() -> MockError:
    """400: the body is not JSON."""
    return _invalid(
        400,
        None,
        "We could not parse the JSON body of your request. (HINT: This likely means you aren't"
        " using your HTTP library correctly. The OpenAI API expects a JSON payload, but what was"
        " sent was not valid JSON. If you have trouble figuring out how to fix this, please"
        " contact us through our help center at help.openai.com.)",
    )


def missing_parameter(name: str) -> MockError:
    """400: a required parameter is not there."""
    return _invalid(
        400, "missing_required_parameter", f"Missing required parameter: '{name}'.", name
    )


def invalid_type(name: str, expected: str, got: object) -> MockError:
    """400: a parameter of the wrong kind."""
    kind = _KINDS.get(type(got), "something else")
    return _invalid(
        400,
        "invalid_type",
        f"Invalid type for '{name}': expected {expected}, but got {kind} instead.",
        name,
    )


def no_model() -> MockError:
    """400: the body names no model."""
    return _invalid(400, None, "you must provide a model parameter")


def out_of_range(name: str, kind: str, bound: str, got: object) -> MockError:
    """400: a number outside its range, such as `("n", "integer", ">= 1", 0)`."""
    side = "below minimum" if bound.startswith(">") else "above maximum"
    return _invalid(
        400,
        f"{kind}_{'below_min' if bound.startswith('>') else 'above_max'}_value",
        f"Invalid '{name}': {kind} {side} value. Expected a value {bound}, but got {got} instead.",
        name,
    )


def embedding_inputs(texts: Sequence[int]) -> MockError | None:
    """400 for inputs beyond the embeddings' limits; `texts` are their lengths in tokens.

    At most 2,048 inputs, 8,192 tokens an input, 300,000 tokens a request, and no empty text (OpenAI
    API reference, 2026; the texts for too many and for empty inputs are paraphrased).
    """
    if len(texts) > MAX_INPUTS:
        message = (
            f"Invalid 'input': array too long. Expected an array with maximum length {MAX_INPUTS},"
            f" but got an array with length {len(texts)} instead."
        )
        return _invalid(400, "array_above_max_length", message, "input")
    if not all(texts):
        return _invalid(400, None, "Invalid 'input': input cannot be an empty string.", "input")
    longest, total = max(texts, default=0), sum(texts)
    if longest > MAX_INPUT_TOKENS:
        message = (
            f"This model's maximum context length is {MAX_INPUT_TOKENS} tokens, however you"
            f" requested {longest} tokens ({longest} in your prompt; 0 for the completion). Please"
            " reduce your prompt; or completion length."
        )
        return _invalid(400, None, message)
    if total > MAX_REQUEST_TOKENS:
        code = "max_tokens_per_request"
        message = f"Requested {total} tokens, max {MAX_REQUEST_TOKENS} tokens per request"
        return replace(_invalid(400, code, message), type=code)
    return None


def refusal(
    status: int, code: str | None, message: str, body: Mapping[str, object] | None
) -> MockError:
    """Return an error of any status; under 200 it is one that the status hides."""
    return MockError(
        status=status, type=None, code=code, message=message, reason="refusal", body=body
    )


def no_such_url(method: str, path: str) -> MockError:
    """404: the API has no such path."""
    return _invalid(404, None, f"Invalid URL ({method} {path})")


def no_such_file(file_id: str) -> MockError:
    """404: no file of that id."""
    return _invalid(404, None, f"No such File object: {file_id}", "id")


def slow_down(retry_after_s: float = 15.0) -> MockError:
    """429: traffic rose too fast, though it is under every limit (paraphrased)."""
    return MockError(
        status=429,
        type="rate_limit_error",
        code="slow_down",
        message="A sudden increase in your request rate is impacting service reliability. Please"
        " reduce your request rate to its original level, maintain a consistent rate for at least"
        " 15 minutes, and then gradually increase it.",
        reason="slow_down",
        retry_after_s=retry_after_s,
        limited=True,
    )


def overloaded(retry_after_s: float | None = None) -> MockError:
    """503: the model has too much to do, for everybody (paraphrased)."""
    return MockError(
        status=503,
        type="service_unavailable_error",
        code="server_is_overloaded",
        message="The model is temporarily overloaded. Please try again later.",
        reason="overloaded",
        retry_after_s=retry_after_s,
    )


def engine_overloaded() -> MockError:
    """429: the overload answer of earlier years."""
    return MockError(
        status=429,
        type="requests",
        code=None,
        message="The engine is currently overloaded, please try again later",
        reason="overloaded",
    )


def model_overloaded() -> MockError:
    """503: the overload answer of earlier years, in its other wording."""
    return MockError(
        status=503,
        type="server_error",
        code=None,
        message="That model is currently overloaded with other requests.",
        reason="overloaded",
    )


def server_error() -> MockError:
    """500."""
    return MockError(
        status=500,
        type="server_error",
        code=None,
        message="The server had an error while processing your request. Sorry about that!",
        reason="server_error",
    )


def resource_unavailable() -> MockError:
    """429: no capacity for `service_tier=flex` now; not billed."""
    return MockError(
        status=429,
        type=None,
        code="resource_unavailable",
        message="Resource Unavailable",
        reason="resource_unavailable",
    )


def _no_quota(code: str, message: str) -> MockError:
    return MockError(
        status=429, type="insufficient_quota", code=code, message=message, reason="quota"
    )


def credit_balance_exhausted() -> MockError:
    """429: the organisation's prepaid credits are used up."""
    return _no_quota(
        "credit_balance_exhausted",
        "You have no credits remaining. Add credits to continue using the API at"
        " https://platform.openai.com/settings/organization/billing/.",
    )


def organization_spend_limit_exceeded() -> MockError:
    """429: the hard limit the organisation set itself (paraphrased)."""
    return _no_quota(
        "organization_spend_limit_exceeded",
        "Your organization has reached its monthly spend limit. Requests resume when the limit is"
        " raised or at the start of the next month.",
    )


def project_spend_limit_exceeded() -> MockError:
    """429: the hard limit of one project; its siblings go on (paraphrased)."""
    return _no_quota(
        "project_spend_limit_exceeded",
        "Your project has reached its monthly spend limit. Requests resume when the limit is"
        " raised or at the start of the next month.",
    )


def organization_usage_limit_exceeded() -> MockError:
    """429: the monthly usage that the provider approved (paraphrased)."""
    return _no_quota(
        "organization_usage_limit_exceeded",
        "Your organization has reached its approved monthly usage limit.",
    )


def insufficient_quota() -> MockError:
    """429: the quota answer that most clients know."""
    return _no_quota(
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing details. For more"
        " information on this error, read the docs:"
        " https://platform.openai.com/docs/guides/error-codes/api-errors.",
    )


def billing_not_active() -> MockError:
    """429: the account cannot be billed."""
    return MockError(
        status=429,
        type="billing_not_active",
        code="billing_not_active",
        message="Your account is not active, please check your billing details on our website.",
        reason="quota",
    )


def billing_hard_limit_reached() -> MockError:
    """400: the quota answer of the images endpoint."""
    return MockError(
        status=400,
        type="billing_limit_user_error",
        code="billing_hard_limit_reached",
        message="Billing hard limit has been reached",
        reason="quota",
    )


def invalid_service_tier() -> MockError:
    """400: this project may not use the service tier it asked for."""
    return _invalid(
        400,
        "invalid_service_tier",
        "Invalid service_tier argument: The requested service tier is not allowed for this"
        " project.",
        "service_tier",
    )


def unsupported_country() -> MockError:
    """403: the request comes from where the API is not offered."""
    return MockError(
        status=403,
        type="request_forbidden",
        code="unsupported_country_region_territory",
        message="Country, region, or territory not supported",
        reason="unsupported_country_region_territory",
    )


# Answers that need no facts of the request, by the name a fault gives them.
FIXED: Final[Mapping[str, Callable[[], MockError]]] = {
    "billing_hard_limit_reached": billing_hard_limit_reached,
    "billing_not_active": billing_not_active,
    "credit_balance_exhausted": credit_balance_exhausted,
    "engine_overloaded": engine_overloaded,
    "insufficient_quota": insufficient_quota,
    "invalid_service_tier": invalid_service_tier,
    "ip_not_authorized": ip_not_authorized,
    "model_overloaded": model_overloaded,
    "organization_spend_limit_exceeded": organization_spend_limit_exceeded,
    "organization_usage_limit_exceeded": organization_usage_limit_exceeded,
    "project_spend_limit_exceeded": project_spend_limit_exceeded,
    "resource_unavailable": resource_unavailable,
    "server_error": server_error,
    "server_is_overloaded": overloaded,
    "slow_down": slow_down,
    "unsupported_country_region_territory": unsupported_country,
}
