"""Who may be asked: circuit breakers and slow start."""
