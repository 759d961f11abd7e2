"""A DSPy program whose calls draw on a fleet of keys, through LiteLLM. Needs no account.

python examples/litellm_dspy.py
"""

from __future__ import annotations

import os

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no network at import

import dspy

from litellm_quotafleet import install
from quotafleet import KeyPool, Limits, Organization
from quotafleet.testing import MockFleet, MockProvider, SystemClock, serve

#: What the mock says, in the form that DSPy reads.
ANSWER = "[[ ## answer ## ]]\nA group under one command.\n\n[[ ## completed ## ]]"


def main() -> None:
    """Ask more often than the quota allows at once; nothing is refused."""
    fleet = MockFleet.simple({"acme": {"rpm": 60}, "globex": {"rpm": 60}})
    provider = MockProvider(fleet, clock=SystemClock())
    provider.script(ANSWER, times=None)
    with serve(provider) as server:
        pool = KeyPool(
            Organization(
                name=key.name,
                keys=(key.secret,),
                base_url=server.base_url,
                limits=Limits(rpm=60),
            )
            for key in fleet.keys
        )
        install(pool)  # the only line that is quotafleet's
        dspy.configure(lm=dspy.LM("openai/gpt-4o-mini", engine="litellm", cache=False))

        answer = dspy.Predict("question -> answer")
        questions = [dspy.Example(question="What is a fleet?").with_inputs("question")] * 122
        answers = dspy.Parallel(num_threads=16, disable_progress_bar=True)(
            [(answer, one) for one in questions]
        )
        print(len(answers), "answers, such as:", answers[0].answer)
        for key in pool.status().keys:
            print(f"{key.owner}: {key.answered} answered, {key.refused} refused")


if __name__ == "__main__":
    main()
