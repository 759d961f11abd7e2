"""A mock of an LLM provider: its quotas, headers, errors and answers, without its bill.

`MockProvider` is pure and runs on any clock; `serve` puts it behind HTTP. `quotafleet.testing` has
the public names.
"""
