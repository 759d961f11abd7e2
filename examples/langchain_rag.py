"""Retrieval over a fleet of keys: embeddings and answers come from the same pool.

OPENAI_API_KEYS=sk-...,sk-... python examples/langchain_rag.py
"""

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

# before: from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_quotafleet import ChatOpenAI, OpenAIEmbeddings

TEXTS = [
    "An organization owns a quota; its keys share it.",
    "A lease holds a key and a reservation.",
    "A strategy ranks owners and never reserves.",
]

# Sends texts, not token ids, so that no tokenizer's file is fetched.
embeddings = OpenAIEmbeddings(model="text-embedding-3-small", check_embedding_ctx_length=False)
llm = ChatOpenAI(model="gpt-4o-mini")
prompt = ChatPromptTemplate.from_template("By these notes:\n{notes}\n\nAnswer: {question}")


def main() -> None:
    """Put the notes into a store, and answer from what is found there."""
    store = InMemoryVectorStore.from_texts(TEXTS, embeddings)
    retriever = store.as_retriever(search_kwargs={"k": 2})
    chain = (
        {"notes": retriever, "question": RunnablePassthrough()} | prompt | llm | StrOutputParser()
    )
    print(chain.invoke("Who owns a quota?"))


if __name__ == "__main__":
    main()
