"""Time per image to have a batch of it in memory: ``cache`` or ``pydicom``.

``python -m benchmarks.jobs.pixels cache|pydicom FOLDER``
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import pydicom
import torch

from benchmarks.processes import tell
from benchmarks.work import CONFIG
from mdmt.config import load_federation
from mdmt.data.batches import load_images
from mdmt.data.cohort import open_cohort

_PASSES = 20


def main(kind: str, folder: Path) -> None:
    """Read every image `_PASSES` times (once by pydicom) after one pass that does not count."""
    config = load_federation(folder / CONFIG)
    cohort = open_cohort(config.sites[min(config.sites)], config)
    everything = np.arange(len(cohort.manifest))

    def cache() -> None:
        load_images(cohort, everything, torch.device("cpu"))

    def decode() -> None:
        for file in cohort.manifest.images:  # not even preprocessed
            assert pydicom.dcmread(file).pixel_array.size

    read, passes = (cache, _PASSES) if kind == "cache" else (decode, 1)
    read()
    started = time.monotonic()
    for _ in range(passes):
        read()
    tell(seconds=(time.monotonic() - started) / passes / len(everything))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
