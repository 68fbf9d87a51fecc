"""``python -m mdmt`` is the command line."""

from mdmt.cli import main

if __name__ == "__main__":  # worker processes of a study import this file under another name
    main()
