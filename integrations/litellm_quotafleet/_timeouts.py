"""How long a request may wait: as long as it may take."""

from __future__ import annotations


def seconds(value: object) -> float | None:
    """Return a ``timeout`` as LiteLLM takes it in seconds; ``None`` = not told."""
    if value is not None and not isinstance(value, int | float | str):
        value = getattr(value, "read", None)  # httpx.Timeout
    try:
        return None if value is None else max(0.0, float(value))
    except (TypeError, ValueError):
        return None
