"""Deciding, apart from doing: no I/O, clock, randomness, lock, logging or `await` in here."""
