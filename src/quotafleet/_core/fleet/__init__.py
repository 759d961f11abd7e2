"""The keys, their owners as far as known, and who may serve a model."""
