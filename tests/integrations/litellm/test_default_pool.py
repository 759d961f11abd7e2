"""One process has one default pool, whichever adapters it uses."""

from __future__ import annotations

import pytest

from litellm_quotafleet import _calls, _patch
from quotafleet import default_pool


def test_functions_without_a_pool_share_the_process_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quotafleet._default._pool", None)
    monkeypatch.setenv("OPENAI_API_KEYS", "sk-0123456789abcdef,sk-fedcba9876543210")
    monkeypatch.chdir("/")
    with default_pool() as pool:
        call = _calls.FunctionCall(print, "completion", {"model": "m"}, None, {})
        assert call.pool is pool
        assert _patch.default_pool() is pool
