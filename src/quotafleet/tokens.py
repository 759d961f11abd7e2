"""Estimators of LLM tokens: `TokenCounter`s that never touch the network.

`bytes4` is the rule by which OpenAI's own limiter admits Chat Completions and Embeddings (measured
on recorded traffic, 2023-10 to 2026-08), so it is exact there. Where the real tokenizer counts
(Responses), it errs by 5 % (Chinese) to 20 % (code) on average, mostly upwards, but counts half of
numeric tables, hex and base64: `cautious` corrects that. `counter` returns the real tokenizer when
its vocabulary already lies on this machine.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ._plugins import find
from .errors import ConfigError

if TYPE_CHECKING:
    from .protocols import TokenCounter

_DATA_URL: Final = re.compile(rb"data:[\w/+.-]{1,100};base64,[A-Za-z0-9+/=]*")
#: Keys, hashes and base64: runs that no word reaches.
_OPAQUE: Final = re.compile(rb"[A-Za-z0-9+/=_-]{64,}")
_DIGITS: Final = b"0123456789"


def size(text: str) -> int:
    """Return the length of a text in UTF-8 bytes."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def bytes4(text: str, model: str = "") -> int:
    """Count a token for every 4 UTF-8 bytes, rounded up."""
    return (size(text) + 3) // 4


def cautious(text: str, model: str = "") -> int:
    """Count as `bytes4`, but numbers, hex and base64 as densely as tokenizers cut them.

    Measured against o200k_base: 2.00 bytes a token in numeric tables, 1.76 in hex and base64.
    ``data:`` URLs are left out: what they hold is an image or a file, which isn't read as text.
    """
    data = _DATA_URL.sub(b"", text.encode("utf-8", "surrogatepass"))
    rest = _OPAQUE.sub(b"", data)
    digits = len(rest) - len(rest.translate(None, _DIGITS))
    bytes_per_token = 2 if digits * 10 > len(rest) * 3 else 4
    opaque = len(data) - len(rest)
    return -(-opaque * 4 // 7) + -(-len(rest) // bytes_per_token)


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """A vocabulary file of tiktoken 0.14.

    Args:
        name: of the encoding.
        url: from which tiktoken would load it; its SHA-1 is the file's name in a cache.
        sha256: of the file.
    """

    name: str
    url: str
    sha256: str

    @property
    def file_name(self) -> str:
        """The file's name in a cache directory."""
        return hashlib.sha1(self.url.encode(), usedforsecurity=False).hexdigest()


_HOST: Final = "https://openaipublic.blob.core.windows.net/encodings"
O200K: Final = Vocabulary(
    name="o200k_base",
    url=f"{_HOST}/o200k_base.tiktoken",
    sha256="446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
)
CL100K: Final = Vocabulary(
    name="cl100k_base",
    url=f"{_HOST}/cl100k_base.tiktoken",
    sha256="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
)
#: The first pattern that fits counts. Newer models than tiktoken 0.14 knows (gpt-6) are taken to
#: keep o200k_base.
_ENCODINGS: Final[tuple[tuple[re.Pattern[str], Vocabulary], ...]] = (
    (re.compile(r"gpt-4(?!o|\.)|gpt-3|gpt-35|davinci-002|babbage-002|text-embedding-"), CL100K),
    (re.compile(r""), O200K),
)


def vocabulary(model: str) -> Vocabulary:
    """Return the vocabulary that a model's tokenizer uses."""
    base = model.removeprefix("ft:")
    return next(found for pattern, found in _ENCODINGS if pattern.match(base))


def counter(models: Iterable[str] = ("gpt-5",)) -> TokenCounter:
    """Return the best counter that needs no network.

    That is tiktoken (extra ``tokens``) for models whose vocabulary file lies in tiktoken's cache
    or in an installed litellm, and `bytes4` for all others. The files of `models` are loaded now,
    in the caller's thread (0.15 to 0.35 s and some 90 MB each), so that nothing loads in a call.
    """
    files = {found: path for found in map(vocabulary, models) if (path := _file(found))}
    if not files or find_spec("tiktoken") is None:
        return bytes4
    # An optional library is imported at the top of its own module, and only when it is asked for.
    from . import _tiktoken  # noqa: PLC0415

    return _tiktoken.counter(files, vocabulary_of=vocabulary, fallback=bytes4, dense=cautious)


#: The group of entry points under which a package offers token counters.
ENTRY_POINTS: Final = "quotafleet.token_counters"


def token_counter(name: str) -> TokenCounter:
    """Return a counter by name: ``"bytes4"``, ``"cautious"``, or ``"tiktoken"``.

    An entry point's name, or ``"package.module:function"``, stands for a counter of one's own.

    Raises:
        ConfigError: there is none of that name, or ``"tiktoken"`` has no vocabulary here.
    """
    known: dict[str, TokenCounter] = {"bytes4": bytes4, "cautious": cautious}
    if name == "tiktoken":
        found = counter()
        if found is bytes4:
            raise ConfigError(
                "tiktoken is not installed, or has no vocabulary on this machine",
                cure="Install it, and call tiktoken.get_encoding('o200k_base') once where the "
                'network allows; or write count_tokens = "bytes4"',
                place="count_tokens",
            )
        return found
    named = find(name, kind="token counter", builtin=known, group=ENTRY_POINTS)
    if not callable(named):
        raise ConfigError(
            f"token counter {name!r} is not a function",
            cure="It must take a text and a model's name, and return a number of tokens",
            place="count_tokens",
        )
    return named


def _file(found: Vocabulary) -> Path | None:
    """Return a vocabulary file that is there and whole: a damaged one would be loaded anew."""
    for folder in _folders():
        path = folder / found.file_name
        try:
            content = path.read_bytes()
        except OSError:
            continue
        if hashlib.sha256(content).hexdigest() == found.sha256:
            return path
    return None


def _folders() -> Iterator[Path]:
    """Yield where vocabulary files lie: tiktoken's cache, then the files litellm brings."""
    cache = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if cache is None:
        yield Path(tempfile.gettempdir()) / "data-gym-cache"
    elif cache:
        yield Path(cache)
    # find_spec doesn't run litellm, whose import would overwrite TIKTOKEN_CACHE_DIR.
    spec = find_spec("litellm")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        yield Path(place) / "litellm_core_utils" / "tokenizers"
