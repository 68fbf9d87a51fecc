"""Draw and cache the images of a work, and write the same as plain tensors.

``python -m benchmarks.jobs.prepare FOLDER``
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from benchmarks.work import CONFIG
from mdmt.config import load_federation
from mdmt.data.cohort import open_cohort
from simulation.simulate import prepare


def main(folder: Path) -> None:
    """Write ``site-NNN.npz`` per site: images uint8 (N, S, S), labels and split of each."""
    config = load_federation(folder / CONFIG)
    prepare(config)
    for name, site in config.sites.items():
        cohort = open_cohort(site, config)
        np.savez(
            folder / f"{name}.npz",
            images=np.array(cohort.pixels),
            labels=cohort.manifest.targets["prognosis"][:, 0].astype(np.int64),
            splits=cohort.manifest.splits,
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
