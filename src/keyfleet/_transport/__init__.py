"""Pooled transports, free of both httpx families; `keyfleet.httpx` puts the two together."""
