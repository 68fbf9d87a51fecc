"""``python -m tests.attacks``: run every attack, and print the tables of docs/privacy.md."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from .tables import attack_table, secure_table

with tempfile.TemporaryDirectory() as folder:
    sys.stdout.write(f"{attack_table(measured=True, folder=Path(folder))}\n\n{secure_table()}\n")
