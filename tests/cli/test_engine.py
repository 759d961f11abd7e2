"""The engine and its output: every line once, whatever ends the run."""

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotafleet import ConfigError
from quotafleet.cli._engine import Tally, run
from quotafleet.cli._lines import BatchRequest
from quotafleet.cli._output import BatchAnswer, BatchOutput, Failure

OK = BatchAnswer(status_code=200, request_id="req_1", body={"said": "中\u2028\ud800"})
BAD = BatchAnswer(status_code=400, request_id="req_2", body={"error": {"message": "no"}})
LATE = Failure(code="wait_timeout", message="too late")


def requests(ids: Iterable[str]) -> Iterator[BatchRequest]:
    for number, custom_id in enumerate(ids, start=1):
        yield BatchRequest(line=number, custom_id=custom_id, url="/chat/completions", body={})


def written(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def ids(path: Path) -> list[object]:
    return [one["custom_id"] for one in written(path)]


async def always(request: BatchRequest) -> BatchAnswer | Failure:
    await asyncio.sleep(0)
    return OK


# Lines that are written


def test_answers_and_failures_have_the_batch_form(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with BatchOutput(path) as output:
        for custom_id, result in (("a", OK), ("b", BAD), ("c", LATE)):
            output.write(custom_id, result)
    answer, refusal, failure = written(path)
    assert str(answer.pop("id")).startswith("batch_req_")
    assert answer == {
        "custom_id": "a",
        "response": {"status_code": 200, "request_id": "req_1", "body": OK.body},
        "error": None,
    }
    assert refusal["response"] == {"status_code": 400, "request_id": "req_2", "body": BAD.body}
    assert failure["response"] is None
    assert failure["error"] == {"code": "wait_timeout", "message": "too late"}


def test_each_line_is_on_the_disk_before_the_next(tmp_path: Path) -> None:
    with BatchOutput(tmp_path / "out.jsonl") as output:
        output.write("a", OK)
        assert ids(tmp_path / "out.jsonl") == ["a"]


# Resuming


def test_what_was_answered_is_done_and_what_failed_is_not(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with BatchOutput(path) as output:
        for custom_id, result in (("a", OK), ("b", BAD), ("c", LATE), ("d", OK)):
            output.write(custom_id, result)
    path.chmod(0o600)
    with BatchOutput(path) as again:
        assert [one in again.done for one in "abcd"] == [True, False, False, True]
        assert again.failed == 0
        assert ids(path) == ["a", "d"]
        again.write("b", OK)
    assert ids(path) == ["a", "d", "b"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["out.jsonl"]


def test_an_answer_beside_an_error_is_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(
        '{"id": "batch_req_1", "custom_id": "a", "response": {"status_code": 200}, '
        '"error": {"code": "batch_expired"}}\n'
    )
    with BatchOutput(path) as output:
        assert "a" not in output.done
    assert ids(path) == []


def test_failures_can_be_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with BatchOutput(path) as output:
        output.write("a", BAD)
    with BatchOutput(path, retry_failed=False) as again:
        assert "a" in again.done
        assert again.failed == 1
    assert ids(path) == ["a"]


@given(cut=st.integers(1, 400))
def test_a_torn_last_line_is_taken_off_wherever_it_tore(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("torn") / "out.jsonl"
    with BatchOutput(path) as output:
        for custom_id in "abc":
            output.write(custom_id, OK)
    whole = path.read_bytes()
    cut = min(cut, len(whole))
    path.write_bytes(whole[:-cut])
    left = whole[:-cut].count(b"}\n") + (cut == 1)  # only a line end was lost
    left += whole[:-cut].endswith(b"null}") and cut != 1
    with BatchOutput(path) as again:
        assert len(again.done) == left
        again.write("z", OK)
    assert ids(path) == [*"abc"[:left], "z"]


@pytest.mark.parametrize(
    "content", [b"precious notes", b"precious notes\n", b'{"a": 1}\n', b'{"custom_id": "a"}', b"\0"]
)
def test_a_file_that_is_no_output_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="not the output of a batch"):
        BatchOutput(path)
    assert path.read_bytes() == content


def test_an_output_with_a_line_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with BatchOutput(path) as output:
        output.write("a", OK)
        output.write("a", OK)
    with pytest.raises(ConfigError, match=r"line 2 .*'a'"):
        BatchOutput(path)


def test_two_batches_cannot_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with BatchOutput(path) as output:
        output.write("a", BAD)
        with pytest.raises(ConfigError, match="another batch"):
            BatchOutput(path)
    with BatchOutput(path), pytest.raises(ConfigError, match="another batch"):  # it was replaced
        BatchOutput(path)
    BatchOutput(path).close()


def test_a_pipe_is_no_output(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="not a regular file"):
        BatchOutput(tmp_path / "pipe")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").symlink_to("real.jsonl")
    for result in (BAD, OK):
        with BatchOutput(tmp_path / "out.jsonl") as output:
            output.write("a", result)
    assert (tmp_path / "out.jsonl").is_symlink()
    assert ids(tmp_path / "real.jsonl") == ["a"]


# Running


async def test_every_line_is_sent_once_and_no_more_than_the_window_at_a_time(
    tmp_path: Path,
) -> None:
    under_way = most = 0
    sent: Counter[str] = Counter()

    async def send(request: BatchRequest) -> BatchAnswer | Failure:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        sent[request.custom_id] += 1
        await asyncio.sleep(0)
        under_way -= 1
        return {0: OK, 1: BAD, 2: LATE}[request.line % 3]

    names = [str(number) for number in range(300)]
    tally = Tally(total=300)
    with BatchOutput(tmp_path / "out.jsonl") as output:
        await run(requests(names), send, output, tally, window=16)
    assert most == 16
    assert sent == Counter(names)
    assert Counter(ids(tmp_path / "out.jsonl")) == sent
    assert (tally.answered, tally.failed, tally.left) == (100, 200, 0)
    assert tally.codes == {"400": 100, "wait_timeout": 100}


async def test_no_line_is_read_before_there_is_a_place_for_it(tmp_path: Path) -> None:
    taken = 0

    def endless() -> Iterator[BatchRequest]:
        nonlocal taken
        for request in requests(str(number) for number in range(10**9)):
            taken += 1
            yield request

    async def never(request: BatchRequest) -> BatchAnswer | Failure:
        await asyncio.Event().wait()
        raise AssertionError

    with BatchOutput(tmp_path / "out.jsonl") as output:
        task = asyncio.create_task(run(endless(), never, output, Tally(), window=8))
        for _ in range(20):
            await asyncio.sleep(0)
        assert taken == 8
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_stopping_begins_no_line_and_lets_those_under_way_end(tmp_path: Path) -> None:
    stop = asyncio.Event()
    begun = 0

    async def send(request: BatchRequest) -> BatchAnswer | Failure:
        nonlocal begun
        begun += 1
        if begun == 10:
            stop.set()
        await asyncio.sleep(0.01)
        return OK

    tally = Tally(total=1000)
    with BatchOutput(tmp_path / "out.jsonl") as output:
        names = (str(number) for number in range(1000))
        await run(requests(names), send, output, tally, window=10, stop=stop)
    assert begun == tally.answered == 10
    assert tally.left == 990


async def test_stopping_gives_up_what_takes_longer_than_the_grace(tmp_path: Path) -> None:
    stop = asyncio.Event()
    stop.set()

    async def stuck(request: BatchRequest) -> BatchAnswer | Failure:
        await asyncio.Event().wait()
        raise AssertionError

    with BatchOutput(tmp_path / "out.jsonl") as output:
        await run(requests("ab"), stuck, output, Tally(total=2), window=2, stop=stop, grace=0.01)
    assert ids(tmp_path / "out.jsonl") == []


async def test_when_no_line_can_be_answered_any_more_the_rest_is_left(tmp_path: Path) -> None:
    async def send(request: BatchRequest) -> BatchAnswer | Failure:
        await asyncio.sleep(0)
        if request.line < 5:
            return OK
        return Failure(code="no_usable_key", message="all dead", is_final=True)

    tally = Tally(total=100)
    with BatchOutput(tmp_path / "out.jsonl") as output:
        await run(requests(map(str, range(100))), send, output, tally, window=1)
    assert tally.halted == "all dead"
    assert (tally.answered, tally.failed, tally.left) == (4, 0, 96)
    assert len(ids(tmp_path / "out.jsonl")) == 4


async def test_an_output_that_cannot_be_written_ends_the_run(tmp_path: Path) -> None:
    output = BatchOutput(tmp_path / "out.jsonl")
    output.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        await run(requests(map(str, range(100))), always, output, Tally(total=100), window=4)
