"""A chain over a fleet of keys: one line differs from the chain over one key.

OPENAI_API_KEYS=sk-...,sk-... python examples/langchain_chain.py
"""

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

# before: from langchain_openai import ChatOpenAI
from langchain_quotafleet import ChatOpenAI

prompt = ChatPromptTemplate.from_template("Say in five words what {thing} is.")
chain = prompt | ChatOpenAI(model="gpt-4o-mini") | StrOutputParser()


def main() -> None:
    """Ask for several things at once; the pool paces the calls."""
    things = ["rain", "a queue", "an owl"]
    for thing, text in zip(things, chain.batch([{"thing": one} for one in things]), strict=True):
        print(f"{thing}: {text}")


if __name__ == "__main__":
    main()
