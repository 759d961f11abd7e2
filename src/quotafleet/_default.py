"""The pool of programs that name none: made once per process, when it is first needed."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .pool import KeyPool

_lock = Lock()
_pool: KeyPool | None = None


def default_pool() -> KeyPool:
    """Return the process's own pool, `KeyPool.from_env()`; adapters without ``pool=`` share it.

    Raises:
        ConfigError: neither a configuration nor `OPENAI_API_KEYS` is there, or it is wrong.
    """
    global _pool  # noqa: PLW0603 - one for the process is what it is for
    with _lock:
        if _pool is None:
            from .pool import KeyPool  # noqa: PLC0415

            _pool = KeyPool.from_env()
        return _pool
