"""Where buckets live: in memory, or shared by processes and machines in Redis."""

from __future__ import annotations

from collections.abc import Callable

from ..errors import ConfigError
from ..protocols import Store
from .memory import MemoryStore

__all__ = ["MemoryStore", "open_store"]


def open_store(url: str, **options: object) -> Store | None:
    """Return the store of a URL, or ``None`` for ``"memory"``.

    Args:
        url: ``"memory"``, or what `quotafleet.stores.redis.RedisStore` takes.
        options: its other arguments.

    Raises:
        ConfigError: the URL is wrong, or a package is missing.
    """
    if url == "memory":
        return None
    try:
        from .redis import RedisStore  # noqa: PLC0415 - redis is needed only where it is used
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "redis":
            raise
        raise ConfigError("this store needs the package redis", cure="pip install redis") from error
    make: Callable[..., Store] = RedisStore  # it checks its options itself
    return make(url, **options)
