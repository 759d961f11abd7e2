"""Scheduling is tested as it is for a few owners, and as it is for thousands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from quotafleet._core.fleet import candidates


@pytest.fixture(scope="module", params=["a look at each", "a ready_index"])
def many(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let even a single owner count as many, so that a ready index is kept."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "a ready_index":
            patch.setattr(candidates, "MANY", 1)
        yield
