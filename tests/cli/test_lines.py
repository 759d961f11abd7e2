"""Input lines: what is right is sent once, what is wrong is reported with its number."""

import json
import tracemalloc
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotafleet.cli._lines import Digests, LineError, parse, survey


def line(custom_id: object = "a", **changes: object) -> dict[str, object]:
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "gpt-4o-mini", "messages": []},
        **changes,
    }


def raw(custom_id: object = "a", **changes: object) -> bytes:
    return json.dumps(line(custom_id, **changes)).encode()


def surveyed(tmp_path: Path, *lines: bytes) -> tuple[list[str], dict[int, str]]:
    """Return the ids that are to be sent, and what was reported."""
    source = tmp_path / "in.jsonl"
    source.write_bytes(b"\n".join(lines))
    reported: dict[int, str] = {}
    plan = survey(source, Digests(), reported.__setitem__)
    ids = [request.custom_id for request in plan.requests()]
    assert (plan.valid, plan.broken) == (len(ids), len(reported))
    return ids, reported


def test_a_line_is_read_as_it_stands() -> None:
    request = parse(raw("a", url="/v1/images/generations"), 7)
    assert (request.line, request.custom_id, request.url) == (7, "a", "/images/generations")
    assert request.body == {"model": "gpt-4o-mini", "messages": []}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b'{"custom_id": NaN}', "not JSON"),
        (b'"text"', "not a JSON object"),
        (raw(None), "custom_id"),
        (raw(""), "custom_id"),
        (raw(5), "custom_id"),
        (raw(method="GET"), "'GET'"),
        (raw(url=None), "url None"),
        (raw(url="/chat/completions"), "url"),
        (raw(url="https://elsewhere.example.com/v1/chat/completions"), "url"),
        (raw(url="//elsewhere.example.com/v1/x"), "url"),
        (raw(url="/v1/../admin"), "url"),
        (raw(url="/v1//elsewhere.example.com"), "url"),
        (raw(url="/v1/chat/completions?x=1"), "url"),
        (raw(url="/v1/chat/completions\n"), "url"),
        (raw(body=None), "body"),
        (raw(body=[]), "body"),
        (raw(body={"stream": True}), "stream"),
    ],
)
def test_a_broken_line_is_told_why(text: bytes, shown: str) -> None:
    with pytest.raises(LineError) as caught:
        parse(text, 1)
    assert shown in str(caught.value)


def test_broken_lines_are_reported_with_their_number_and_the_others_stay(tmp_path: Path) -> None:
    ids, reported = surveyed(tmp_path, raw("a"), b"{", b"", b"  ", raw("b"), raw("c", body=1))
    assert ids == ["a", "b"]
    assert set(reported) == {2, 6}


def test_a_second_line_of_one_id_is_reported_with_both_numbers(tmp_path: Path) -> None:
    ids, reported = surveyed(tmp_path, raw("a"), raw("b"), raw("a"), raw("a"))
    assert ids == ["a", "b"]
    assert set(reported) == {3, 4}
    assert "'a' of line 1" in reported[4]


def test_a_line_that_is_broken_leaves_its_id_to_another(tmp_path: Path) -> None:
    ids, reported = surveyed(tmp_path, raw("a", body=1), raw("a"))
    assert ids == ["a"]
    assert set(reported) == {1}


def test_two_ids_of_one_digest_are_both_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Digests, "_digest", lambda self, text: 7)
    source = tmp_path / "in.jsonl"
    source.write_bytes(raw("a") + b"\n" + raw("b"))
    plan = survey(source, Digests(), lambda number, reason: pytest.fail(reason))
    assert (plan.valid, plan.broken) == (2, 0)


def test_a_byte_order_mark_and_windows_line_ends_are_no_matter(tmp_path: Path) -> None:
    ids, reported = surveyed(tmp_path, b"\xef\xbb\xbf" + raw("a") + b"\r", raw("b") + b"\r")
    assert (ids, reported) == (["a", "b"], {})


def test_what_is_done_is_not_sent(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    source.write_bytes(raw("a") + b"\n" + raw("b"))
    done = Digests()
    done.add("a")
    plan = survey(source, done, lambda number, reason: pytest.fail(reason))
    assert [request.custom_id for request in plan.requests()] == ["b"]
    assert (plan.valid, plan.before) == (2, 1)


@given(st.lists(st.text(max_size=3)), st.lists(st.text(max_size=3)))
def test_digests_are_a_set(added: list[str], asked: list[str]) -> None:
    digests, model = Digests(), set[str]()
    for text in added:
        assert digests.add(text) == (text not in model)
        model.add(text)
    assert len(digests) == len(model)
    assert all((text in digests) == (text in model) for text in [*added, *asked])


def test_a_line_costs_at_most_a_few_bytes_of_memory(tmp_path: Path) -> None:
    source, count = tmp_path / "in.jsonl", 20_000
    filler = "x" * 500
    with source.open("wb") as file:
        for number in Random(1).sample(range(10**9), count):
            file.write(raw(str(number), body={"filler": filler}) + b"\n")
    tracemalloc.start()
    try:
        plan = survey(source, Digests(), lambda number, reason: pytest.fail(reason))
        assert sum(1 for _ in plan.requests()) == plan.valid == count
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 48 * count  # of 600 bytes a line; while the table grows there are two
