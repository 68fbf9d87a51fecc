"""Seconds to open a filled cache, and to open the cohort it belongs to (its table too).

``python -m benchmarks.jobs.open_cache FOLDER``
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.processes import tell
from benchmarks.work import CONFIG
from mdmt.config import load_federation
from mdmt.data import cache, cohort


def main(folder: Path) -> None:
    """Open the first site's cohort once, in this fresh process."""
    config = load_federation(folder / CONFIG)
    seconds: list[float] = []

    def timed(*arguments: Any, **options: Any) -> Any:
        started = time.monotonic()
        opened = cache.open_pixels(*arguments, **options)
        seconds.append(time.monotonic() - started)
        return opened

    started = time.monotonic()
    with patch("mdmt.data.cohort.open_pixels", timed):
        opened = cohort.open_cohort(config.sites[min(config.sites)], config)
    tell(cohort=time.monotonic() - started, cache=seconds[0], images=len(opened.manifest))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
