"""What is looked up rather than generated: models, files, moderations."""

from __future__ import annotations

from typing import Final

from .. import errors
from .._json import JsonObject, dump, items, text
from ..accounts import AccountStates
from ..call import MockCall
from ..errors import MockError
from ..exchange import Exchange, Payload
from ..specs import ModelSpec
from .ids import draw_id
from .wire import JSON

_CATEGORIES: Final = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)


def look_up_models(accounts: AccountStates, call: MockCall) -> Payload | MockError:
    """List the models that the key's project may use, or describe one of them."""
    project = accounts.keys[call.secret].project.spec
    usable = {
        name: spec
        for name, spec in accounts.models.items()
        if project.allowed_models is None or {name, spec.name} & project.allowed_models
    }
    if not call.target:
        return _json(_listed([_model(accounts, name, spec) for name, spec in usable.items()]))
    spec = usable.get(call.target)
    if spec is None:
        return errors.model_not_found(call.target)
    return _json(_model(accounts, call.target, spec))


def _model(accounts: AccountStates, name: str, spec: ModelSpec) -> JsonObject:
    owner = "openai" if spec.name == name else "system"
    return {
        "id": name,
        "object": "model",
        "created": accounts.settings.epoch_s,
        "owned_by": owner,
    }


def use_files(accounts: AccountStates, call: MockCall) -> Payload | MockError:
    """Store a file, list files, or give, describe or delete one."""
    if call.method == "POST":
        return _store(accounts, call)
    if not call.target:
        return _json(_listed([facts for facts, _ in accounts.files.values()]))
    file_id, _, part = call.target.partition("/")
    if file_id not in accounts.files:
        return errors.no_such_file(file_id)
    facts, data = accounts.files[file_id]
    if call.method == "DELETE":
        del accounts.files[file_id]
        return _json({"id": file_id, "object": "file", "deleted": True})
    if part == "content":
        return Payload(media_type="application/octet-stream", data=data)
    return _json(facts)


def _store(accounts: AccountStates, call: MockCall) -> Payload | MockError:
    if call.upload is None:
        return errors.missing_parameter("file")
    accounts.files_made += 1
    file_id = f"file-mock{accounts.files_made:020d}"
    facts: JsonObject = {
        "id": file_id,
        "object": "file",
        "bytes": len(call.upload.data),
        "created_at": accounts.settings.epoch_s,
        "filename": call.upload.name,
        "purpose": text((call.body or {}).get("purpose"), "user_data"),
        "status": "processed",
    }
    accounts.files[file_id] = (facts, call.upload.data)
    return _json(facts)


def write_moderation(exchange: Exchange) -> Payload:
    """Find nothing wrong with any of the inputs."""
    given = (exchange.call.body or {}).get("input")
    texts = [one for one in items(given) if isinstance(one, str)]
    result: JsonObject = {
        "flagged": False,
        "categories": dict.fromkeys(_CATEGORIES, False),
        "category_scores": dict.fromkeys(_CATEGORIES, 0.0),
        "category_applied_input_types": {name: ["text"] for name in _CATEGORIES},
    }
    return _json(
        {
            "id": draw_id(exchange, "modr-"),
            "model": exchange.call.model,
            "results": [result] * max(1, len(texts)),
        }
    )


def _listed(data: list[JsonObject]) -> JsonObject:
    return {"object": "list", "data": data, "has_more": False}


def _json(body: JsonObject) -> Payload:
    return Payload(media_type=JSON, data=dump(body))
