"""The OpenAI API: its routes, and who reads, charges and writes each."""

from __future__ import annotations

from typing import Final

from .. import errors
from ..call import Endpoint
from ..exchange import Dialect, Exchange, MockRoute, Payload
from .account import look_up_models, use_files, write_moderation
from .chat import ChatStream, CompletionStream, write_chat, write_completion
from .embeddings import write_embeddings
from .headers import write_headers
from .media import write_images, write_speech, write_transcript
from .read import (
    chat_ask,
    completions_ask,
    embeddings_ask,
    embeddings_flaw,
    images_ask,
    input_ask,
    read_json,
    read_plain,
    read_upload,
    requires,
    responses_ask,
)
from .responses import ResponseStream, write_response
from .wire import error_body

__all__ = ["OPENAI"]


def _already_written(exchange: Exchange) -> Payload:
    """Stand in for the writer of routes that answer at admission."""
    raise AssertionError(f"{exchange.call.endpoint} is answered at admission")


_CHAT: Final = MockRoute(
    endpoint="chat",
    read=read_json("chat", chat_ask, requires("messages"), streams=True),
    write=write_chat,
    stream=ChatStream(),
    profile="chat_2025",
    generates=True,
)
_COMPLETIONS: Final = MockRoute(
    endpoint="completions",
    read=read_json("completions", completions_ask, requires("prompt"), streams=True),
    write=write_completion,
    stream=CompletionStream(),
    profile="completions",
    generates=True,
)
_RESPONSES: Final = MockRoute(
    endpoint="responses",
    read=read_json("responses", responses_ask, requires("input"), streams=True),
    write=write_response,
    stream=ResponseStream(),
    profile="responses_2026",
    flaw_headers=False,
    headers_at_completion=True,
    generates=True,
)
_EMBEDDINGS: Final = MockRoute(
    endpoint="embeddings",
    read=read_json("embeddings", embeddings_ask, embeddings_flaw),
    write=write_embeddings,
    profile="embeddings",
)
_IMAGES: Final = MockRoute(
    endpoint="images",
    read=read_json("images", images_ask, requires("prompt")),
    write=write_images,
    rate_headers=False,
)
_SPEECH: Final = MockRoute(
    endpoint="speech",
    read=read_json("speech", input_ask, requires("input", "voice")),
    write=write_speech,
    profile="tts",
)
_TRANSCRIPTIONS: Final = MockRoute(
    endpoint="transcriptions",
    read=read_upload("transcriptions"),
    write=write_transcript,
    generates=True,
)
_TRANSLATIONS: Final = MockRoute(
    endpoint="translations",
    read=read_upload("translations"),
    write=write_transcript,
    generates=True,
)
_MODERATIONS: Final = MockRoute(
    endpoint="moderations",
    read=read_json("moderations", input_ask, requires("input")),
    write=write_moderation,
    profile="embeddings",
)
_MODELS: Final = MockRoute(
    endpoint="models",
    read=read_plain("models"),
    write=_already_written,
    perform=look_up_models,
)
_FILES: Final = MockRoute(
    endpoint="files", read=read_plain("files"), write=_already_written, perform=use_files
)
_FILE_UPLOAD: Final = MockRoute(
    endpoint="files", read=read_upload("files"), write=_already_written, perform=use_files
)

_PATHS: Final = {
    ("POST", "/v1/chat/completions"): _CHAT,
    ("POST", "/v1/completions"): _COMPLETIONS,
    ("POST", "/v1/responses"): _RESPONSES,
    ("POST", "/v1/embeddings"): _EMBEDDINGS,
    ("POST", "/v1/images/generations"): _IMAGES,
    ("POST", "/v1/audio/speech"): _SPEECH,
    ("POST", "/v1/audio/transcriptions"): _TRANSCRIPTIONS,
    ("POST", "/v1/audio/translations"): _TRANSLATIONS,
    ("POST", "/v1/moderations"): _MODERATIONS,
    ("GET", "/v1/models"): _MODELS,
    ("GET", "/v1/files"): _FILES,
    ("POST", "/v1/files"): _FILE_UPLOAD,
}
# Paths that go on with the name of a thing.
_THINGS: Final = {
    ("GET", "/v1/models/"): _MODELS,
    ("GET", "/v1/files/"): _FILES,
    ("DELETE", "/v1/files/"): _FILES,
}
_ROUTES: Final[dict[Endpoint, MockRoute]] = {route.endpoint: route for route in _PATHS.values()}


def _find(method: str, path: str) -> tuple[MockRoute, str] | None:
    """Return the route of a path, and the rest of the path."""
    route = _PATHS.get((method, path))
    if route is not None:
        return route, ""
    for (verb, prefix), thing in _THINGS.items():
        if method == verb and path.startswith(prefix) and len(path) > len(prefix):
            return thing, path[len(prefix) :]
    return None


OPENAI: Final = Dialect(
    name="openai",
    routes=_ROUTES,
    find=_find,
    headers=write_headers,
    error_body=error_body,
    no_route=errors.no_such_url,
    no_key=errors.no_api_key,
)
