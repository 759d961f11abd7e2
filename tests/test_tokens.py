from __future__ import annotations

import base64
import hashlib
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotafleet import tokens
from quotafleet.tokens import CL100K, O200K, bytes4, cautious, counter, size, vocabulary


@given(st.text())
def test_size_is_in_bytes(text: str) -> None:
    assert size(text) == len(text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize(
    ("text", "count"), [("", 0), ("x", 1), ("x" * 4, 1), ("x" * 23, 6), ("中" * 100, 75)]
)
def test_bytes4(text: str, count: int) -> None:
    assert bytes4(text, "gpt-4o") == count


@given(st.text())
def test_cautious_is_never_below_bytes4_for_text(text: str) -> None:
    assert cautious(text) >= bytes4(text) - (0 if "data:" not in text else size(text))


def test_cautious_knows_what_tokenizers_cut_finely() -> None:
    numbers = "[0.123, 4.567, 89.012], " * 100
    assert cautious(numbers) == size(numbers) // 2
    opaque = base64.b64encode(bytes(range(256)) * 20).decode()
    assert cautious(opaque) == -(-len(opaque) * 4 // 7)
    assert cautious("plain words, nothing else " * 10) == bytes4("plain words, nothing else " * 10)


def test_cautious_leaves_out_data_urls() -> None:
    assert cautious("data:image/png;base64," + "QUJD" * 1000) == 0


@pytest.mark.parametrize(
    ("model", "found"),
    [
        ("gpt-4o-mini", O200K),
        ("gpt-4.1", O200K),
        ("gpt-4.5-preview", O200K),
        ("gpt-5.6-sol", O200K),
        ("o3-mini", O200K),
        ("gpt-6-sol", O200K),
        ("gpt-4", CL100K),
        ("gpt-4-turbo-2024-04-09", CL100K),
        ("gpt-3.5-turbo", CL100K),
        ("ft:gpt-3.5-turbo:acme::x", CL100K),
        ("text-embedding-3-small", CL100K),
        ("davinci-002", CL100K),
    ],
)
def test_every_model_has_a_vocabulary(model: str, found: tokens.Vocabulary) -> None:
    assert vocabulary(model) is found


def test_vocabulary_files_are_named_as_tiktoken_names_them() -> None:
    assert O200K.file_name.startswith("fb374d41")
    assert CL100K.file_name.startswith("9b5ad71b")


@pytest.fixture
def no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return tmp_path


def test_without_a_vocabulary_bytes_count(no_cache: Path) -> None:
    assert counter() is bytes4


def test_a_damaged_vocabulary_is_none(no_cache: Path) -> None:
    (no_cache / O200K.file_name).write_bytes(b"damaged")
    assert counter() is bytes4


def test_an_empty_setting_disables_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    assert not [folder for folder in tokens._folders() if "litellm" not in folder.parts]


def test_folders_in_tiktokens_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "one")
    monkeypatch.setenv("DATA_GYM_CACHE_DIR", "two")
    assert next(tokens._folders()) == Path("one")
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR")
    assert next(tokens._folders()) == Path("two")
    monkeypatch.delenv("DATA_GYM_CACHE_DIR")
    assert next(tokens._folders()).name == "data-gym-cache"


def test_litellm_is_found_without_running_it(no_cache: Path) -> None:
    package = no_cache / "litellm"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('was imported')")
    assert package / "litellm_core_utils" / "tokenizers" in list(tokens._folders())


def ranks() -> bytes:
    """A vocabulary in which every byte is a token, and so is ``ab``."""
    entries = [bytes([value]) for value in range(256)] + [b"ab"]
    lines = (base64.b64encode(token) + b" %d" % rank for rank, token in enumerate(entries))
    return b"\n".join(lines) + b"\n"


def test_a_vocabulary_that_is_there_is_used(no_cache: Path) -> None:
    module = pytest.importorskip("quotafleet._tiktoken", exc_type=ImportError)
    path = no_cache / "vocabulary"
    path.write_bytes(ranks())
    count = module.counter({O200K: path}, vocabulary_of=vocabulary, fallback=bytes4, dense=cautious)
    assert count("abab", "gpt-4o") == 2
    assert count("<|endoftext|>", "gpt-4o") == len("<|endoftext|>")
    assert count("abab", "gpt-4") == bytes4("abab")
    assert count("x" * 5_000, "gpt-4o") == cautious("x" * 5_000)
    assert count("ab " * 100_000, "gpt-4o") == bytes4("ab " * 100_000)


def test_the_counter_loads_what_it_finds(no_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tiktoken")
    content = ranks()
    small = tokens.Vocabulary(
        name="o200k_base", url="test://small", sha256=hashlib.sha256(content).hexdigest()
    )
    monkeypatch.setattr(tokens, "_ENCODINGS", ((tokens._ENCODINGS[-1][0], small),))
    (no_cache / small.file_name).write_bytes(content)
    assert counter()("abab", "gpt-5") == 2
