"""A LangGraph graph whose two nodes draw on one fleet, with a priority each.

OPENAI_API_KEYS=sk-...,sk-... python examples/langchain_graph.py
"""

from typing import TypedDict

from langgraph.graph import END, START, StateGraph

# before: from langchain_openai import ChatOpenAI
from langchain_quotafleet import ChatOpenAI

writer = ChatOpenAI(model="gpt-4o-mini", priority="batch")
reviewer = ChatOpenAI(model="gpt-4o-mini", priority="interactive")


class Text(TypedDict, total=False):
    """What goes through the graph."""

    subject: str
    draft: str
    verdict: str


def write(state: Text) -> Text:
    """Write a draft."""
    return {"draft": writer.invoke(f"Write a line about {state['subject']}.").text}


def review(state: Text) -> Text:
    """Judge it."""
    return {"verdict": reviewer.invoke(f"Is this good? {state['draft']}").text}


graph = StateGraph(Text)
graph.add_node("write", write)
graph.add_node("review", review)
graph.add_edge(START, "write")
graph.add_edge("write", "review")
graph.add_edge("review", END)
app = graph.compile()


def main() -> None:
    """Run it once."""
    print(app.invoke({"subject": "queues"}))


if __name__ == "__main__":
    main()
