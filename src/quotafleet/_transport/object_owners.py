"""Which owner holds what a call refers to: an earlier response, a conversation, a file, a batch.

Such things exist in one organization's project only; asked with another's key, they are not found.
So the id of what an answer created is noted with the key that created it, and a call whose path
or body names a noted id goes to that key's owner. Ids are recognised by having been seen, not by
their form. A process that didn't see an object made doesn't know who holds it.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from ..pool import KeyPool

#: Ids that are remembered; about 2 MB. The oldest go first.
KEPT: Final = 10_000
#: Bytes of the beginning of an answer in which its id stands.
HEAD: Final = 4_096

_ID: Final = re.compile(rb'"id"\s*:\s*"([A-Za-z]+[-_][A-Za-z0-9_-]{4,128})"')
_NAMED: Final = re.compile(rb'[/"]([A-Za-z]{1,16}[-_][A-Za-z0-9_-]{4,128})(?=[/"?]|$)')


class ObjectOwners:
    """Id of an object -> id of the key that made it."""

    def __init__(self) -> None:
        self._lock = Lock()  # guards the table
        self._keys: OrderedDict[bytes, str] = OrderedDict()

    def note(self, head: bytes, key_id: str) -> None:
        """Note the object that an answer tells of, by the answer's beginning."""
        found = _ID.search(head, 0, HEAD)
        if found is not None:
            with self._lock:
                self._keys[found[1]] = key_id
                self._keys.move_to_end(found[1])
                if len(self._keys) > KEPT:
                    self._keys.popitem(last=False)

    def find(self, path: bytes, body: bytes) -> str | None:
        """Return the key that made what a request names; ``None`` = it names nothing known."""
        if not self._keys:  # the usual case costs nothing
            return None
        for text in (b"/" + path, body):
            for found in _NAMED.finditer(text):
                key_id = self._keys.get(found[1])
                if key_id is not None:
                    return key_id
        return None


_lock: Final = Lock()  # guards the table below
_of: Final[WeakKeyDictionary[KeyPool, ObjectOwners]] = WeakKeyDictionary()


def holders_of(pool: KeyPool) -> ObjectOwners:
    """Return what is known of a pool's owners, in all of its clients together."""
    with _lock:
        return _of.setdefault(pool, ObjectOwners())
