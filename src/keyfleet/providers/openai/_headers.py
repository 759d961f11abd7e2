"""What OpenAI's headers say of the owner's quota."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..._limits import Metric
from ..._outcome import Observation, Reading
from .._durations import duration
from .._headers import Fields, bucket, sane

#: Suffix -> what it counts, and whether for the project. Left out: "input-images", which counts
#: images in prompts (50,000 a minute and more) and is no limit of images made, and
#: "tokens_usage_based" (2023).
_GROUPS: Final = (
    ("requests", Metric.REQUESTS, False),
    ("tokens", Metric.TOKENS, False),
    ("project-requests", Metric.REQUESTS, True),
    ("project-tokens", Metric.TOKENS, True),
)


def observe(headers: Mapping[str, str]) -> Observation:
    """Read the headers of any answer; they come with refusals and 400 too."""
    fields = Fields(headers)
    found = (_reading(fields, *group) for group in _GROUPS)
    readings = tuple(reading for reading in found if reading is not None)
    organization_id = fields.label("openai-organization")
    project_id = fields.label("openai-project")
    return Observation(
        readings=readings,
        organization_id=organization_id,
        project_id=project_id,
        ignored=fields.ignored,
    )


def _reading(fields: Fields, suffix: str, metric: Metric, project: bool) -> Reading | None:
    limit = fields.count(f"x-ratelimit-limit-{suffix}")
    remaining = fields.count(f"x-ratelimit-remaining-{suffix}")
    reset = fields.value(f"x-ratelimit-reset-{suffix}", duration)
    if limit is None or remaining is None or not sane(fields, limit, remaining):
        return None
    return bucket(metric, limit, remaining, reset, project=project, bursts=True)
