"""tiktoken as a `TokenCounter`, from vocabulary files that are already there.

The encodings are built here instead of by `tiktoken.get_encoding`, which loads from the network
whatever its cache doesn't hold, and blocks meanwhile.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tiktoken import Encoding  # type: ignore[import-not-found,unused-ignore]  # an optional extra

if TYPE_CHECKING:
    from .protocols import TokenCounter
    from .tokens import Vocabulary

#: How each encoding splits a text before it merges bytes (tiktoken 0.14, openai_public.py).
_SPLITS: Final = {
    "cl100k_base": (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+"
        r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
    ),
    "o200k_base": (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
        r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}
#: Characters. Longer texts (some 50,000 tokens, 20 ms) would hold up an event loop.
_LONGEST_TEXT: Final = 200_000
#: Characters without a space. Merging inside one word costs more than its length.
_LONGEST_WORD: Final = 2_000


def counter(
    files: Mapping[Vocabulary, Path],
    *,
    vocabulary_of: Callable[[str], Vocabulary],
    fallback: TokenCounter,
    dense: TokenCounter,
) -> TokenCounter:
    """Return a counter that knows the vocabularies in `files`.

    Args:
        files: where each vocabulary lies; they are read now.
        vocabulary_of: the vocabulary of a model.
        fallback: counts for other models, and texts too long to encode.
        dense: counts texts with words so long that encoding them could take long.
    """
    encodings = {found.name: _encoding(found.name, path) for found, path in files.items()}

    def count(text: str, model: str) -> int:
        encoding = encodings.get(vocabulary_of(model).name)
        if encoding is None or len(text) > _LONGEST_TEXT:
            return fallback(text, model)
        if max(map(len, text.split()), default=0) > _LONGEST_WORD:
            return dense(text, model)
        return len(encoding.encode_ordinary(text))

    return count


def _encoding(name: str, path: Path) -> Encoding:
    lines = (line.split() for line in path.read_bytes().splitlines() if line)
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    return Encoding(name, pat_str=_SPLITS[name], mergeable_ranks=ranks, special_tokens={})
