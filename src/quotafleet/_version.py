"""The installed version, read from the package's metadata when it is asked for."""


def __getattr__(name: str) -> str:
    """Return the version as ``__version__``; importing `importlib.metadata` costs milliseconds."""
    if name != "__version__":
        raise AttributeError(f"module 'quotafleet' has no attribute {name!r}")
    from importlib.metadata import version  # noqa: PLC0415

    return version("quotafleet")
