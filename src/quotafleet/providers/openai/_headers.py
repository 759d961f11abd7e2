"""What OpenAI's headers say of the owner's quota."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ...limits import Metric
from ...outcomes import Observation
from .._durations import duration
from .._headers import Fields, amount, bucket, sane

#: Suffix -> what it counts, and whether for the project. Left out: "input-images", which counts
#: images in prompts (50,000 a minute and more) and is no limit of images made, and
#: "tokens_usage_based" (2023).
_GROUPS: Final = (
    ("requests", Metric.REQUESTS, False),
    ("tokens", Metric.TOKENS, False),
    ("project-requests", Metric.REQUESTS, True),
    ("project-tokens", Metric.TOKENS, True),
)
#: The names of each group's limit, remainder and reset.
_NAMES: Final = tuple(
    (
        f"x-ratelimit-limit-{suffix}",
        f"x-ratelimit-remaining-{suffix}",
        f"x-ratelimit-reset-{suffix}",
        metric,
        project,
    )
    for suffix, metric, project in _GROUPS
)


def observe(headers: Mapping[str, str]) -> Observation:
    """Read the headers of any answer; they come with refusals and 400 too."""
    fields = Fields(headers)
    readings = []
    for limit_name, remaining_name, reset_name, metric, project in _NAMES:
        if limit_name not in headers:
            continue
        limit = fields.value(limit_name, amount)
        remaining = fields.value(remaining_name, amount)
        reset = fields.value(reset_name, duration)
        if limit is not None and remaining is not None and sane(fields, limit, remaining):
            readings.append(bucket(metric, limit, remaining, reset, project=project, bursts=True))
    organization_id = fields.label("openai-organization")
    project_id = fields.label("openai-project")
    return Observation(
        readings=tuple(readings),
        organization_id=organization_id,
        project_id=project_id,
        ignored=fields.ignored,
    )
