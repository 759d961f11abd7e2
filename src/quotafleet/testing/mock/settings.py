"""The switches of the mock: where the real provider differs by date, account or luck."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class MockSettings:
    """How the mock behaves where the recorded traffic leaves room.

    Attributes:
        charge_rejected: a refused request costs one unit of the request limit per minute.
            OpenAI Rate limits guide: "unsuccessful requests contribute to your per-minute limit".
        retry_after: send `retry-after` (whole seconds, a minimum) with a rate-limit 429.
        retry_after_ms: send `retry-after-ms` too. The SDK reads it; no recorded 429 proves it.
        x_should_retry: send `x-should-retry`; read by the SDK, unproven like the one above.
        quantise_s: enforce limits per minute also over windows of this many seconds; None = not.
        ramp_base_tokens: input tokens per minute that are always allowed to an organisation and
            model; beyond them a minute may be 1.5 x the best of the previous 15 minutes
            (OpenAI Error codes guide, autumn 2026); None = no such guard.
        tells_limits: send rate-limit headers, and say in a rate-limit 429 which limit refused and
            for how long; without, as some compatible endpoints do, only that one did.
        true_up: settle the estimate against the real usage when a call ends; None = where the
            cost profile does so (`responses_2026`, `azure_ptu`, `anthropic`).
        ttft_s: seconds until the first token.
        tokens_per_s: speed of generation; 0 = at once.
        jitter: latency varies evenly by this share, 0.2 = +-20 %.
        output_tokens: mean length of an answer nobody scripted, +-50 %.
        edge_cookies: answers over HTTP set the cookies of the edge before api.openai.com where a
            request brings none (recorded traffic, 2024-02, 2024-11).
        epoch_s: Unix time that the clock's zero stands for in `created` fields.
    """

    charge_rejected: bool = True
    retry_after: bool = True
    retry_after_ms: bool = False
    x_should_retry: bool = False
    quantise_s: float | None = None
    ramp_base_tokens: int | None = 1_000_000
    tells_limits: bool = True
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
            raise ValueError(f"jitter is a share below 1 (0.2 = +-20 %): {self.jitter}")
        if self.quantise_s is not None and self.quantise_s <= 0:
            raise ValueError(f"quantise_s must be above 0 seconds, or None: {self.quantise_s}")
