"""No signature of the face says `Any`: a checker would let everything pass there."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module

import pytest

MODULES = (
    "",
    ".httpx",
    ".openai",
    ".strategies",
    ".providers",
    ".testing",
    ".simulate",
    ".events",
    ".protocols",
    ".outcomes",
    ".keys",
    ".limits",
    ".owners",
    ".usage",
    ".errors",
    ".tokens",
    ".config",
    ".stores",
)
ANY = re.compile(r"\bAny\b")


def members(name: str, value: object) -> Iterator[tuple[str, object]]:
    """Yield a function; or a class with its public methods and its constructor."""
    yield name, value
    if not isinstance(value, type):
        return
    for attribute, member in vars(value).items():
        if attribute.startswith("_") and attribute not in {"__init__", "__new__", "__call__"}:
            continue
        function = member.fget if isinstance(member, property) else member
        function = getattr(function, "__func__", function)  # of a class method, a static one
        if inspect.isfunction(function):
            yield f"{name}.{attribute}", function


def with_any(module: str) -> list[str]:
    loaded = import_module(module)
    names = getattr(loaded, "__all__", None) or [
        name
        for name, value in vars(loaded).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module
    ]
    public = [(f"{module}.{name}", getattr(loaded, name)) for name in names]
    return [
        f"{name}({parameter}: {annotation})"
        for path, value in public
        if inspect.isfunction(value) or isinstance(value, type)
        for name, member in members(path, value)
        for parameter, annotation in inspect.get_annotations(member).items()  # type: ignore[arg-type]
        if not parameter.startswith("_") and ANY.search(str(annotation))
    ]


@pytest.mark.parametrize("name", MODULES)
def test_no_public_signature_says_any(name: str) -> None:
    assert with_any(f"quotafleet{name}") == []
