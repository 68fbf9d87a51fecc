"""``python -m mdmt`` is the command line."""

from mdmt.cli import main

main()
