"""Reading requests of the OpenAI API: from JSON or a form to the facts of a call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from .. import errors
from .._json import dump, items, number, obj, parse, text, utf8_len, whole
from ..call import Endpoint, MockCall, MockRequest
from ..cost import RequestSize
from ..errors import MockError
from ..multipart import read_form

Body = Mapping[str, object]

_MOST_ANSWERS = 128  # the API's own bound of `n`
# What required parameters may be, where it is not just a string.
_TEXT = (str,)
_ACCEPTED: Mapping[str, tuple[type, ...]] = {
    "messages": (list,),
    "input": (str, list),
    "prompt": (str, list),
    "voice": (str, dict),
}
_NAMED = {
    "messages": "an array of objects",
    "input": "a string or an array",
    "prompt": "a string or an array",
    "voice": "a string or an object",
}


def read_json(
    endpoint: Endpoint,
    measure: Callable[[Body], RequestSize],
    flaw: Callable[[Body], MockError | None],
    *,
    streams: bool = False,
) -> Callable[[MockRequest, str], MockCall | MockError]:
    """Return a reader of JSON bodies; `measure` gives their cost, `flaw` what is wrong."""

    def read(request: MockRequest, target: str) -> MockCall | MockError:
        try:
            body = parse(request.body)
        except ValueError:
            return errors.bad_json()
        if not isinstance(body, dict):
            return errors.bad_json()
        facts = obj(body)
        if not text(facts.get("model")):
            return errors.no_model()
        return MockCall(
            secret=request.secret or "",
            endpoint=endpoint,
            model=text(facts.get("model")),
            ask=measure(facts),
            stream=streams and facts.get("stream") is True,
            client_ip=request.client_ip,
            flaw=flaw(facts),
            body=facts,
            target=target,
        )

    return read


def read_upload(endpoint: Endpoint) -> Callable[[MockRequest, str], MockCall | MockError]:
    """Return a reader of forms with a file."""

    def read(request: MockRequest, target: str) -> MockCall | MockError:
        form = read_form(request.headers.get("content-type", ""), request.body)
        fields = form.fields if form is not None else {}
        upload = form.uploads.get("file") if form is not None else None
        if endpoint != "files" and not text(fields.get("model")):
            return errors.no_model()
        return MockCall(
            secret=request.secret or "",
            endpoint=endpoint,
            model=text(fields.get("model")),
            client_ip=request.client_ip,
            flaw=errors.missing_parameter("file") if upload is None else None,
            body=fields,
            upload=upload,
            target=target,
        )

    return read


def read_plain(endpoint: Endpoint) -> Callable[[MockRequest, str], MockCall | MockError]:
    """Return a reader of requests that say all by their method and path."""

    def read(request: MockRequest, target: str) -> MockCall | MockError:
        return MockCall(
            secret=request.secret or "",
            endpoint=endpoint,
            client_ip=request.client_ip,
            method=request.method,
            target=target,
        )

    return read


def chat_ask(body: Body) -> RequestSize:
    """Measure a chat: the text of all messages counts; roles, names and tools do not."""
    messages = items(body.get("messages"))
    size, images = _weigh(obj(message).get("content") for message in messages)
    cap = whole(body.get("max_completion_tokens")) or whole(body.get("max_tokens"))
    return RequestSize(
        text_bytes=size,
        messages=len(messages),
        images=images,
        n=_answers(body),
        max_tokens=cap,
        tools=_has_functions(body),
        forced=_forces(body.get("tool_choice")),
    )


def completions_ask(body: Body) -> RequestSize:
    """Measure a legacy completion: one prompt, several, or token ids."""
    size, prompts, ids = _prompts(body.get("prompt"))
    return RequestSize(
        text_bytes=size,
        prompts=prompts,
        token_ids=ids,
        n=_answers(body),
        max_tokens=whole(body.get("max_tokens")),
        best_of=whole(body.get("best_of")) or 1,
    )


def responses_ask(body: Body) -> RequestSize:
    """Measure a response: input, instructions and tools all count."""
    given = body.get("input")
    size, images = _weigh([given] if isinstance(given, str) else _input_parts(items(given)))
    tools = items(body.get("tools"))
    return RequestSize(
        text_bytes=size + utf8_len(text(body.get("instructions"))),
        messages=1 if isinstance(given, str) else len(items(given)),
        images=images,
        max_tokens=whole(body.get("max_output_tokens")),
        tool_bytes=len(dump(tools)) if tools else 0,
        tools=_has_functions(body),
        forced=_forces(body.get("tool_choice")),
    )


def embeddings_ask(body: Body) -> RequestSize:
    """Measure embedding inputs: texts by their bytes, token ids by their number."""
    size, prompts, ids = _prompts(body.get("input"))
    return RequestSize(text_bytes=size, prompts=prompts, token_ids=ids)


def input_ask(body: Body) -> RequestSize:
    """Measure the `input` of speech and moderations: a text, texts, or parts."""
    given = body.get("input")
    size, images = _weigh([given])
    texts = sum(utf8_len(one) for one in items(given) if isinstance(one, str))
    return RequestSize(text_bytes=size + texts, images=images, prompts=max(1, len(items(given))))


def images_ask(body: Body) -> RequestSize:
    """Measure an order of pictures: how many, and the prompt."""
    return RequestSize(text_bytes=utf8_len(text(body.get("prompt"))), n=_answers(body))


def requires(*names: str) -> Callable[[Body], MockError | None]:
    """Return a check that these parameters are there and that numbers are in their range."""

    def flaw(body: Body) -> MockError | None:
        for name in names:
            if body.get(name) in (None, [], ""):
                return errors.missing_parameter(name)
            if not isinstance(body[name], _ACCEPTED.get(name, _TEXT)):
                return errors.invalid_type(name, _NAMED.get(name, "a string"), body[name])
        return _out_of_range(body)

    return flaw


def embeddings_flaw(body: Body) -> MockError | None:
    """Check the inputs' number, their lengths and their sum."""
    given = body.get("input")
    several = items(given) or [given]
    if whole(several[0]) is not None:
        several = [several]
    tokens = [len(items(one)) or -(-utf8_len(text(one)) // 4) for one in several]
    return requires("input")(body) or errors.embedding_inputs(tokens)


def _out_of_range(body: Body) -> MockError | None:
    n = whole(body.get("n"))
    if n is not None and n < 1:
        return errors.out_of_range("n", "integer", ">= 1", n)
    if n is not None and n > _MOST_ANSWERS:
        return errors.out_of_range("n", "integer", f"<= {_MOST_ANSWERS}", n)
    temperature = number(body.get("temperature"))
    if temperature is not None and temperature > 2:
        return errors.out_of_range("temperature", "decimal", "<= 2", temperature)
    if temperature is not None and temperature < 0:
        return errors.out_of_range("temperature", "decimal", ">= 0", temperature)
    return None


def _answers(body: Body) -> int:
    return max(1, min(whole(body.get("n")) or 1, _MOST_ANSWERS))


def _has_functions(body: Body) -> bool:
    return any(obj(tool).get("type") == "function" for tool in items(body.get("tools")))


def _forces(choice: object) -> bool:
    """Tell whether a tool must be called: "required", one by name, or one of an allowed set."""
    one = obj(choice)
    if one.get("type") == "allowed_tools":
        return one.get("mode", obj(one.get("allowed_tools")).get("mode")) == "required"
    return choice == "required" or one.get("type") == "function"


def _weigh(contents: Iterable[object]) -> tuple[int, int]:
    """Return the bytes of text and the number of images in contents: strings, or parts."""
    size = images = 0
    for content in contents:
        if isinstance(content, str):
            size += utf8_len(content)
            continue
        for part in items(content):
            one = obj(part)
            size += utf8_len(text(one.get("text")))
            images += one.get("type") in ("image_url", "input_image")
    return size, images


def _input_parts(given: list[object]) -> Iterable[object]:
    """Give the contents of Responses items: messages, and the text of calls and their outputs."""
    for item in given:
        one = obj(item)
        yield from (one.get(name) for name in ("content", "arguments", "output"))


def _prompts(given: object) -> tuple[int, int, int | None]:
    """Return bytes of text, number of prompts, and number of token ids if it is those."""
    if isinstance(given, str):
        return utf8_len(given), 1, None
    several = items(given)
    if several and all(whole(one) is not None for one in several):
        return 0, 1, len(several)
    if several and all(isinstance(one, list) for one in several):
        return 0, len(several), sum(len(items(one)) for one in several)
    return sum(utf8_len(text(one)) for one in several), max(1, len(several)), None
