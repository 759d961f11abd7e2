"""The models of a mock fleet that names none.

Limits are those of the first paid tier on OpenAI's model pages, 2026-09, or as seen in headers,
2025..2026-08; prices are round figures, meant to make spend limits testable and nothing else.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from .specs import LongContext, MockModelLimits, ModelSpec

# A million tokens in and out of a small model, and of a large one.
_SMALL_IN, _SMALL_OUT = Decimal("0.15"), Decimal("0.60")
_LARGE_IN, _LARGE_OUT = Decimal("2.50"), Decimal("10.00")
_EMBEDDING = MockModelLimits(rpm=3_000, tpm=1_000_000)

STANDARD_MODELS: Final[tuple[ModelSpec, ...]] = (
    ModelSpec(
        name="gpt-4o",
        aliases=("gpt-4o-2024-08-06",),
        limits=MockModelLimits(rpm=500, tpm=30_000, input_images=50_000),
        input_usd=_LARGE_IN,
        output_usd=_LARGE_OUT,
    ),
    ModelSpec(
        name="gpt-4o-mini",
        aliases=("gpt-4o-mini-2024-07-18",),
        limits=MockModelLimits(rpm=500, rpd=10_000, tpm=200_000, input_images=50_000),
        input_usd=_SMALL_IN,
        output_usd=_SMALL_OUT,
    ),
    ModelSpec(
        name="gpt-4.1",
        context_tokens=1_047_576,
        limits=MockModelLimits(rpm=5_000, tpm=450_000),
        input_usd=_LARGE_IN,
        output_usd=_LARGE_OUT,
    ),
    ModelSpec(
        name="gpt-4.1-mini", context_tokens=1_047_576, input_usd=_SMALL_IN, output_usd=_SMALL_OUT
    ),
    ModelSpec(
        name="gpt-5-nano", context_tokens=400_000, input_usd=_SMALL_IN, output_usd=_SMALL_OUT
    ),
    ModelSpec(
        name="gpt-5.5",
        context_tokens=1_050_000,
        limits=MockModelLimits(rpm=500, tpm=500_000),
        long_context=LongContext(threshold=272_000, limits=MockModelLimits(rpm=200, tpm=400_000)),
        input_usd=_LARGE_IN,
        output_usd=_LARGE_OUT,
    ),
    ModelSpec(
        name="gpt-3.5-turbo-instruct",
        context_tokens=4_096,
        input_usd=_SMALL_IN,
        output_usd=_SMALL_OUT,
    ),
    ModelSpec(name="text-embedding-3-small", limits=_EMBEDDING, context_tokens=8_192),
    ModelSpec(
        name="text-embedding-3-large", limits=_EMBEDDING, context_tokens=8_192, dimensions=3072
    ),
    ModelSpec(name="text-embedding-ada-002", limits=_EMBEDDING, context_tokens=8_192),
    ModelSpec(name="gpt-image-1", family="gpt-image", limits=MockModelLimits(rpm=500, ipm=5)),
    ModelSpec(name="dall-e-3", limits=MockModelLimits(rpm=500, ipm=5)),
    ModelSpec(name="whisper-1", limits=MockModelLimits(rpm=500)),
    ModelSpec(name="gpt-4o-transcribe", limits=MockModelLimits(rpm=500, tpm=10_000)),
    ModelSpec(name="tts-1", limits=MockModelLimits(rpm=500, tpm=2_000_000)),
    ModelSpec(name="gpt-4o-mini-tts", limits=MockModelLimits(rpm=500, tpm=2_000_000)),
    ModelSpec(
        name="omni-moderation-latest", limits=MockModelLimits(rpm=500, rpd=10_000, tpm=10_000)
    ),
)
