"""Pooled transports, free of both httpx families; `quotafleet.httpx` puts the two together."""
