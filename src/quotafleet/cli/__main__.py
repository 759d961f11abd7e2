"""``python -m quotafleet.cli``: the command line, where scripts are not on the path."""

from . import main

if __name__ == "__main__":  # the mock's process imports this module again
    main()
