"""`python -m ttc` is the command `ttc`."""

from ttc.cli import main

main()
