"""Pictures and sound: the smallest files that are what they claim to be."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Final

from .._json import JsonObject, dump, text
from ..exchange import Exchange, Payload
from .ids import created, draw_id
from .wire import JSON

_SPEECH_TYPES: Final = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
_RATE_HZ: Final = 24_000  # the API's own rate of pcm and wav
_MP3_FRAME: Final = b"\xff\xfb\x10\xc4" + bytes(100)  # MPEG-1 layer 3, 32 kbit/s, 44.1 kHz, silent
_SECONDS: Final = 1.0  # every recording is taken to be this long


def write_images(exchange: Exchange) -> Payload:
    """Write pictures of one pixel: as base64, or for DALL-E as addresses unless it asks."""
    body = exchange.call.body or {}
    dalle = exchange.call.model.startswith("dall-e")
    as_url = text(body.get("response_format"), "url" if dalle else "b64_json") == "url"
    pictures = [_picture(exchange, i, as_url=as_url) for i in range(exchange.call.ask.n)]
    answer: JsonObject = {"created": created(exchange), "data": pictures}
    if not dalle:
        tokens = exchange.call.ask.input_tokens
        answer["usage"] = {
            "input_tokens": tokens,
            "input_tokens_details": {"text_tokens": tokens, "image_tokens": 0},
            "output_tokens": 0,
            "total_tokens": tokens,
        }
    return Payload(media_type=JSON, data=dump(answer))


def _picture(exchange: Exchange, index: int, *, as_url: bool) -> JsonObject:
    if as_url:
        return {"url": f"https://example.com/{draw_id(exchange, 'img-', index)}.png"}
    shade = zlib.crc32(f"{exchange.seed}:{index}".encode()) & 0xFF
    return {"b64_json": base64.b64encode(_png(shade)).decode()}


def _png(shade: int) -> bytes:
    """Return a PNG of one grey pixel."""
    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes((0, shade)))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(kind, data) for kind, data in chunks)


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_speech(exchange: Exchange) -> Payload:
    """Write silence in the format asked for; it lasts longer for a longer text."""
    kind = text((exchange.call.body or {}).get("response_format"), "mp3")
    size = 2 * (_RATE_HZ // 100) * max(1, exchange.call.ask.text_bytes // 4)
    match kind:
        case "wav":
            data = _wav(bytes(size))
        case "pcm":
            data = bytes(size)
        case _:
            data = _MP3_FRAME * max(1, exchange.call.ask.text_bytes // 4)
    return Payload(media_type=_SPEECH_TYPES.get(kind, "audio/mpeg"), data=data)


def _wav(samples: bytes) -> bytes:
    fmt = struct.pack("<IHHIIHH", 16, 1, 1, _RATE_HZ, 2 * _RATE_HZ, 2, 16)
    data = b"data" + struct.pack("<I", len(samples)) + samples
    body = b"WAVEfmt " + fmt + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def write_transcript(exchange: Exchange) -> Payload:
    """Write what was said in the recording, in the format asked for."""
    said = exchange.answers[0].text
    match text((exchange.call.body or {}).get("response_format"), "json"):
        case "text":
            return Payload(media_type="text/plain; charset=utf-8", data=f"{said}\n".encode())
        case "srt":
            cue = f"1\n00:00:00,000 --> 00:00:01,000\n{said}\n\n"
            return Payload(media_type="text/plain; charset=utf-8", data=cue.encode())
        case "vtt":
            cue = f"WEBVTT\n\n00:00:00.000 --> 00:00:01.000\n{said}\n\n"
            return Payload(media_type="text/plain; charset=utf-8", data=cue.encode())
        case "verbose_json":
            verbose: JsonObject = {
                "task": "transcribe",
                "language": "english",
                "duration": _SECONDS,
                "text": said,
                "segments": [],
                "usage": {"type": "duration", "seconds": _SECONDS},
            }
            return Payload(media_type=JSON, data=dump(verbose))
        case _:
            return Payload(
                media_type=JSON, data=dump({"text": said, "usage": _audio_usage(exchange)})
            )


def _audio_usage(exchange: Exchange) -> JsonObject:
    """Return the usage: whisper counts seconds, the newer models tokens."""
    if exchange.call.model.startswith("whisper"):
        return {"type": "duration", "seconds": _SECONDS}
    heard = round(10 * _SECONDS)  # ten tokens a second
    return {
        "type": "tokens",
        "input_tokens": heard,
        "input_token_details": {"audio_tokens": heard, "text_tokens": 0},
        "output_tokens": exchange.output_tokens,
        "total_tokens": heard + exchange.output_tokens,
    }
