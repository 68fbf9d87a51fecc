"""The synthetic dataset: drawn radiographs as DICOM files, and a table of their labels."""

import csv
import json
import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdmt.config.datasets import Synthetic, Table
from mdmt.config.site import SiteConfig
from mdmt.data.brixia import LEVELS, ZONES
from mdmt.data.cache import default_cache_dir
from mdmt.data.manifest import Manifest
from mdmt.data.splits import deal_patients
from mdmt.data.synthetic_radiograph import draw_radiograph, write_dicom
from mdmt.data.table import read_table
from mdmt.data.tabular import Issue
from mdmt.errors import DataError
from mdmt.files import read_json
from mdmt.seeds import derive_seed

_VERSION = 1  # version of the drawing: with a new version, the files are written again
_MEAN_SCORE = len(ZONES) * (LEVELS - 1) / 2
_SPREAD = 4.5  # standard deviation of the global scores of patients

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Population:
    """P patients with I images each.

    Parameters
    ----------
    scores : ndarray of int, (P, I, 6)
        Zone scores from 0 to 3.
    outcomes : ndarray of str, (P,)
        ``MILD`` or ``SEVERE``.
    splits : ndarray of str, (P,)
    """

    scores: NDArray[np.int64]
    outcomes: NDArray[np.str_]
    splits: NDArray[np.str_]


def draw_population(dataset: Synthetic, site: str) -> Population:
    """Draw the patients of a site. The result depends on `dataset` and the name of the site only.

    The severity of patients is uniform; the scores of a patient's images and zones vary around it.
    With g the mean global score of a patient, P(SEVERE) = 1 / (1 + exp(-coupling·(g-9)/4.5)). With
    coupling 0 half of the patients are SEVERE, independently of their scores.
    """
    rng = np.random.default_rng(derive_seed(dataset.seed, "synthetic", site))
    patients, images = dataset.patients, dataset.images_per_patient
    severity = (LEVELS - 1) * _spread_evenly(rng, patients)
    by_zone = rng.normal(0.0, 0.5, (patients, 1, len(ZONES)))
    by_image = rng.normal(0.0, 0.3, (patients, images, len(ZONES)))
    latent = severity[:, None, None] + by_zone + by_image
    scores = np.clip(np.rint(latent), 0, LEVELS - 1).astype(np.int64)
    excess = (scores.sum(axis=2).mean(axis=1) - _MEAN_SCORE) / _SPREAD
    probability = 1 / (1 + np.exp(-dataset.coupling * excess))
    severe = _spread_evenly(rng, patients) < probability
    splits = deal_patients(severe, rng, dataset.val_fraction, dataset.test_fraction)
    return Population(scores, np.where(severe, "SEVERE", "MILD"), splits)


def _spread_evenly(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Return uniform numbers in [0, 1): one from each of `count` equal parts, in random order."""
    return (rng.permutation(count) + rng.random(count)) / count


def write_synthetic(dataset: Synthetic, site: str, folder: Path) -> None:
    """Write images, ``labels.csv`` and ``synthetic.json`` (the settings) to `folder`.

    ``labels.csv`` has the columns image, patient, split, A … F and prognosis. Half of the images
    are MONOCHROME1 and half MONOCHROME2. Half of the images have 12 bits and half 16 bits.
    """
    population = draw_population(dataset, site)
    (folder / "images").mkdir()
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["image", "patient", "split", *ZONES, "prognosis"])
        number = 0
        for p, of_patient in enumerate(population.scores):
            patient = f"{site}-{p:04d}"
            for i, scores in enumerate(of_patient):
                name = f"images/{p:04d}-{i}.dcm"
                rng = np.random.default_rng(derive_seed(dataset.seed, "image", site, p, i))
                write_dicom(
                    folder / name,
                    draw_radiograph(scores, rng, size=dataset.size, noise=dataset.noise),
                    patient=patient,
                    photometric="MONOCHROME1" if number % 2 else "MONOCHROME2",
                    bits=16 if number // 2 % 2 else 12,
                )
                outcome, split = population.outcomes[p], population.splits[p]
                table.writerow([name, patient, split, *scores, outcome])
                number += 1
    (folder / "synthetic.json").write_text(_origin(dataset, site), encoding="utf-8")


def read_synthetic(site: SiteConfig, seed: int) -> tuple[Manifest, list[Issue]]:
    """Read the synthetic dataset of a site with the table reader. Write its files first if needed.

    The files depend on the site's name and its `dataset`, not on the federation's `seed`. Two sites
    with equal settings have different data, and a study over seeds uses the same data.

    Raises
    ------
    DataError
        `dataset.root` contains other files. They are not changed.
    """
    dataset = site.dataset
    assert isinstance(dataset, Synthetic)
    folder = dataset.root or _cache_folder(site, dataset)
    _ensure(dataset, site.name, folder)
    table = Table(
        root=folder,
        patient="patient",
        split="split",
        val_fraction=0,
        on_bad_image=dataset.on_bad_image,
    )
    return read_table(site.model_copy(update={"dataset": table}), seed)


def _ensure(dataset: Synthetic, site: str, folder: Path) -> None:
    """Write the dataset to `folder` and rename it into place, unless it exists."""
    if not folder.exists() or not any(folder.iterdir()):
        _log.info("%s: drawing %d patients into %s", site, dataset.patients, folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            write_synthetic(dataset, site, temporary)
            temporary.chmod(0o755)
            temporary.rename(folder)
        except OSError:
            # Another process may have written it at the same time.
            if not (folder / "synthetic.json").is_file():
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    origin = folder / "synthetic.json"
    if not origin.is_file() or read_json(origin) != json.loads(_origin(dataset, site)):
        raise DataError(
            f"{folder}: contains data of another dataset; delete it or set another dataset.root"
        )


def _cache_folder(site: SiteConfig, dataset: Synthetic) -> Path:
    cache = site.cache_dir or default_cache_dir()
    return cache / "synthetic" / f"{site.name}-{derive_seed(_origin(dataset, site.name)):016x}"


def _origin(dataset: Synthetic, site: str) -> str:
    made_from: dict[str, Any] = dataset.model_dump(exclude={"kind", "root", "on_bad_image"})
    return json.dumps({"version": _VERSION, "site": site} | made_from, indent=1, sort_keys=True)
