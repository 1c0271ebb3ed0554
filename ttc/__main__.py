"""`python -m ttc` and the command `ttc`."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is still imported ends it without a traceback."""
    try:
        from ttc.cli import main as command
    except KeyboardInterrupt:
        print("Aborted.", file=sys.stderr)
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
