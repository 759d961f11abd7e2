"""The smallest value that a JSON schema accepts, for forced tool calls and structured output.

Covers what SDKs and pydantic write: types, enums, constants, references, unions, `allOf`, bounds of
numbers, lengths and items. Required properties only. `pattern` is not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from ._json import items, number, obj, text, whole

_DEPTH = 32  # a schema that must recurse for ever has no value; better an empty one than no end


def smallest(schema: object) -> object:
    """Return the smallest value valid against `schema`; anything goes where it says nothing."""
    root = obj(schema)
    return _value(root, root, 0)


def _value(schema: Mapping[str, object], root: Mapping[str, object], depth: int) -> object:
    if depth > _DEPTH:
        return None
    for fixed in ("const", "default"):
        if fixed in schema:
            return schema[fixed]
    if choices := items(schema.get("enum")):
        return choices[0]
    if reference := text(schema.get("$ref")):
        return _value(_follow(reference, root), root, depth + 1)
    if union := items(schema.get("anyOf")) or items(schema.get("oneOf")):
        return _value(_first_real(union), root, depth + 1)
    if parts := items(schema.get("allOf")):
        return _value(_merged(parts, schema, root), root, depth + 1)
    return _typed(schema, root, depth)


def _typed(schema: Mapping[str, object], root: Mapping[str, object], depth: int) -> object:
    match _type(schema):
        case "string":
            return _string(schema)
        case "integer":
            return math.ceil(_least(schema, 1))
        case "number":
            return _least(schema, 0.5)
        case "boolean":
            return False
        case "array":
            count = whole(schema.get("minItems")) or 0
            return [_value(obj(schema.get("items")), root, depth + 1) for _ in range(count)]
        case "null":
            return None
        case _:
            return _object(schema, root, depth)


def _type(schema: Mapping[str, object]) -> str:
    given = schema.get("type")
    if isinstance(given, list):  # ["string", "null"]
        given = next((one for one in given if one != "null"), "null")
    return text(given, "object")


def _object(
    schema: Mapping[str, object], root: Mapping[str, object], depth: int
) -> dict[str, object]:
    properties = obj(schema.get("properties"))
    names = [text(name) for name in items(schema.get("required"))]
    return {name: _value(obj(properties.get(name)), root, depth + 1) for name in names}


def _string(schema: Mapping[str, object]) -> str:
    formats = {
        "date": "2026-01-01",
        "date-time": "2026-01-01T00:00:00Z",
        "time": "00:00:00Z",
        "email": "mock@example.com",
        "uri": "https://example.com/",
        "uuid": "00000000-0000-4000-8000-000000000000",
    }
    said = formats.get(text(schema.get("format")), "mock")
    said = said.ljust(whole(schema.get("minLength")) or 0, "x")
    longest = whole(schema.get("maxLength"))
    return said if longest is None else said[:longest]


def _least(schema: Mapping[str, object], step: float) -> float:
    """Return the number nearest to 0 within the bounds; `step` keeps off an exclusive one."""
    low, high = number(schema.get("minimum")), number(schema.get("maximum"))
    above, below = (number(schema.get(f"exclusive{side}imum")) for side in ("Min", "Max"))
    if above is not None:
        low = max(above + step, above + step if low is None else low)
    if below is not None:
        high = min(below - step, below - step if high is None else high)
    value = 0.0
    if low is not None:
        value = max(value, low)
    return value if high is None else min(value, high)


def _first_real(union: list[object]) -> Mapping[str, object]:
    """Return the first alternative that is not null."""
    real = [obj(one) for one in union if obj(one).get("type") != "null"]
    return real[0] if real else {"type": "null"}


def _merged(
    parts: list[object], schema: Mapping[str, object], root: Mapping[str, object]
) -> Mapping[str, object]:
    """Join `allOf`: later keys win, properties and required names add up."""
    merged: dict[str, object] = {}
    properties: dict[str, object] = {}
    required: list[object] = []
    rest = {name: value for name, value in schema.items() if name != "allOf"}
    for part in (*parts, rest):
        one = obj(part)
        one = _follow(text(one["$ref"]), root) if "$ref" in one else one
        properties.update(obj(one.get("properties")))
        required.extend(items(one.get("required")))
        merged.update(one)
    return {**merged, "properties": properties, "required": required}


def _follow(reference: str, root: Mapping[str, object]) -> Mapping[str, object]:
    """Resolve `#/$defs/Name`; a reference to another document accepts anything."""
    place: object = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if step:
            place = obj(place).get(step.replace("~1", "/").replace("~0", "~"))
    return obj(place)
