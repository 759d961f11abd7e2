"""An agent with a tool over a fleet of keys: one line differs, and one may say that it is urgent.

OPENAI_API_KEYS=sk-...,sk-... python examples/langchain_agent.py
"""

from langchain.agents import create_agent
from langchain_core.tools import tool

# before: from langchain_openai import ChatOpenAI
from langchain_quotafleet import ChatOpenAI, QuotafleetMiddleware


@tool
def weather(place: str) -> str:
    """Tell the weather at a place."""
    return f"It is fine in {place}."


agent = create_agent(
    ChatOpenAI(model="gpt-4o-mini"),
    [weather],
    # Not needed: puts this agent's calls before those of a batch, and ends them after a minute.
    middleware=[QuotafleetMiddleware(priority="interactive", deadline_after=60)],
)


def main() -> None:
    """Ask about the weather, and say which keys answered."""
    result = agent.invoke(
        {"messages": [{"role": "user", "content": "How is the weather in Oslo?"}]}
    )
    for message in result["messages"]:
        by = message.response_metadata.get("quotafleet", {}).get("key_id", "")
        print(f"{message.type:6} {message.text or message.tool_calls} {by}")


if __name__ == "__main__":
    main()
