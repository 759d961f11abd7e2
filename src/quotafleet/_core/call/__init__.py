"""One call as a generator of effects, and when it is tried again."""
