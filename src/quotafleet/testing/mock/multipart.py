"""`multipart/form-data`, as far as file uploads of an SDK need it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from .call import Upload

_BOUNDARY: Final = re.compile(r'boundary="?([^";]+)"?')
_NAME: Final = re.compile(r'[; ]name="([^"]*)"')
_FILENAME: Final = re.compile(r'filename="([^"]*)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class MultipartForm:
    """The fields of a form by name, and its files."""

    fields: dict[str, object] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)


def read_form(content_type: str, body: bytes) -> MultipartForm | None:
    """Parse a form; None if it is not one."""
    found = _BOUNDARY.search(content_type)
    if found is None or not content_type.startswith("multipart/form-data"):
        return None
    form = MultipartForm()
    mark = b"\r\n--" + found[1].encode("latin-1")
    for part in (b"\r\n" + body).split(mark)[1:]:
        if part.startswith(b"--"):
            break
        _read_part(part.removeprefix(b"\r\n"), form)
    return form


def _read_part(part: bytes, form: MultipartForm) -> None:
    head, _, data = part.partition(b"\r\n\r\n")
    described = next(
        (line for line in head.split(b"\r\n") if line.lower().startswith(b"content-disposition")),
        b"",
    ).decode(errors="replace")
    name = _NAME.search(described)
    if name is None:
        return
    filename = _FILENAME.search(described)
    if filename is not None:
        form.uploads[name[1]] = Upload(name=filename[1], data=data)
    else:
        form.fields[name[1]] = data.decode(errors="replace")
