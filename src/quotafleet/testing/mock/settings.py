"""The mock's switches: where real providers differ by date, account or chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .specs import LimitRules

OPENAI_RULES: Final = LimitRules()


@dataclass(frozen=True, slots=True, kw_only=True)
class MockSettings:
    """How the mock behaves where recorded traffic leaves room.

    Attributes:
        rules: how limits are enforced, charged and stated; an organization may have its own.
        retry_after: send `retry-after` (whole seconds, at least 1) with a rate-limit 429.
        retry_after_ms: also send `retry-after-ms`. The SDK reads it; no recorded 429 has it.
        x_should_retry: send `x-should-retry`, which the SDK reads; unproven like the one above.
        ramp_base_tokens: input tokens per minute that an organization may always send to a model;
            beyond them a minute may have 1.5 x the best of the previous 15 minutes (OpenAI Error
            codes guide, autumn 2026); ``None``: no such guard.
        true_up: settle the estimate against the real usage when a call ends; ``None``: as the cost
            profile does (`responses_2026`, `azure_ptu`, `reserve_max_tokens`, `anthropic`).
        ttft_s: seconds until the first token.
        tokens_per_s: speed of generation; 0: immediate.
        jitter: latency varies evenly by this share, 0.2: +-20 %.
        output_tokens: mean length of an answer that no script fixes, +-50 %.
        edge_cookies: answers over HTTP set the cookies of the edge before api.openai.com where a
            request brings none (recorded traffic, 2024-02, 2024-11).
        epoch_s: Unix time of the clock's zero, for `created` fields.
    """

    rules: LimitRules = OPENAI_RULES
    retry_after: bool = True
    retry_after_ms: bool = False
    x_should_retry: bool = False
    ramp_base_tokens: int | None = 1_000_000
    true_up: bool | None = None
    ttft_s: float = 0.0
    tokens_per_s: float = 0.0
    jitter: float = 0.0
    output_tokens: int = 16
    edge_cookies: bool = True
    epoch_s: int = 1_795_219_200  # 2026-11-21T00:00Z: fixed, so that a run repeats exactly

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tokens_per_s", "jitter", "output_tokens"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative: {getattr(self, name)}")
        if self.jitter >= 1:
            raise ValueError(f"jitter is a share below 1 (0.2: +-20 %): {self.jitter}")
