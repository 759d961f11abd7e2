"""Which call is granted next, by whom, and why the others wait."""
