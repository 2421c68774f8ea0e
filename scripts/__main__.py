"""`pretexture COMMAND`: runs one of the commands."""

import sys


def main() -> int:
    """Runs the command that the first argument names; returns its exit status."""
    return 0


if __name__ == "__main__":
    sys.exit(main())
