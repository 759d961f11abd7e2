"""Owners are merged by several answers that agree, and never against the configuration."""

from __future__ import annotations

import pytest

from quotafleet import KeyPool, Organization
from quotafleet._core.fleet.ownership import ANSWERS_TO_BELIEVE, OwnerIdentities
from quotafleet.keys import ApiKey
from quotafleet.outcomes import Observation


def keys_of(*names: str, **ids: str) -> dict[str, ApiKey]:
    organizations = [
        Organization(
            name=name, keys=(f"sk-{name}-0123456789abcdef",), organization_id=ids.get(name)
        )
        for name in names
    ]
    return {key.organization: key for key in KeyPool(organizations).keys}


class Answers:
    """What keys' answers name, one request after the other."""

    def __init__(self, keys: dict[str, ApiKey]) -> None:
        self.keys = keys
        self.identities = OwnerIdentities()
        self.number = 0
        self.merges: list[tuple[str, str]] = []

    def tell(self, owner: str, organization_id: str, times: int = 1, *, same: bool = False) -> None:
        keys = {key.key_id: key for key in self.keys.values()}
        for _ in range(times):
            self.number += not same
            found = self.identities.tell(
                self.keys[owner], Observation(organization_id=organization_id), keys, self.number
            )
            self.merges += found.merges if found is not None else ()


def test_owners_merge_once_several_answers_agree() -> None:
    answers = Answers(keys_of("acme", "birch"))
    answers.tell("acme", "org-1", ANSWERS_TO_BELIEVE)
    answers.tell("birch", "org-1", ANSWERS_TO_BELIEVE - 1)
    assert answers.merges == []
    answers.tell("birch", "org-1")
    assert answers.merges == [("birch", "acme")]


@pytest.mark.parametrize("stray", ["acme", "birch"])
def test_one_wrong_answer_merges_nobody(stray: str) -> None:
    answers = Answers(keys_of("acme", "birch"))
    for n in range(20):
        wrong = n == 7
        answers.tell("acme", "org-b" if wrong and stray == "acme" else "org-a")
        answers.tell("birch", "org-a" if wrong and stray == "birch" else "org-b")
    assert answers.merges == []


def test_a_gateway_that_hands_on_other_ids_in_turn_merges_nobody() -> None:
    answers = Answers(keys_of("acme", "birch"))
    for n in range(100):
        answers.tell("acme", f"org-{n % 3}")
        answers.tell("birch", f"org-{n % 2}")
    assert answers.merges == []


def test_one_requests_headers_count_once() -> None:
    answers = Answers(keys_of("acme", "birch"))
    answers.tell("acme", "org-1", ANSWERS_TO_BELIEVE)
    answers.tell("birch", "org-1", 10, same=True)
    assert answers.merges == []


def test_a_configured_id_outranks_what_answers_say() -> None:
    answers = Answers(keys_of("acme", "birch", "cedar", birch="org-2", acme="org-1"))
    answers.tell("acme", "org-1", 10)
    answers.tell("birch", "org-1", 10)
    answers.tell("cedar", "org-2", 10)
    answers.tell("birch", "org-2", 10)
    assert answers.merges == [("birch", "cedar")], "what is configured is believed at once"
