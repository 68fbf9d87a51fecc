"""The two datasets of docs/tutorial.md: other layouts, small pictures, labels that can be seen."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import openpyxl
from numpy.typing import NDArray
from PIL import Image

ZONES = ("Z1", "Z2", "Z3", "Z4", "Z5", "Z6")
SIDE = 64


def write_city(root: Path, count: int = 36) -> None:
    """``city/outcomes.csv``: semicolons, a comma in the age, names without suffix, ``?``."""
    (root / "city" / "films").mkdir(parents=True)
    with (root / "city" / "outcomes.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, delimiter=";", lineterminator="\n")
        table.writerow(["Subject", "Film", "Sex", "Age", "Outcome"])
        for n in range(count):
            scores = np.full(6, n % 4)
            name = f"CR{n:04d}"
            _draw(root / "city" / "films" / f"{name}.png", scores, n)
            outcome = "?" if n % 12 == 7 else ("MILD", "SEVERE")[n % 4 // 2]
            subject = f"{n // 2 + 1:03d}"
            table.writerow([subject, name, "MF"[n // 2 % 2], f"{40 + n},5", outcome])


def write_clinic(root: Path, count: int = 36) -> None:
    """``clinic/scores.xlsx``: paths of Windows, a score of each of six zones, ``-``."""
    (root / "clinic" / "xray").mkdir(parents=True)
    workbook = openpyxl.Workbook()
    sheet = workbook.active
    assert sheet is not None
    sheet.append(["Patient ID", "File", "View", *ZONES, "Remark"])
    for n in range(count):
        scores = np.random.default_rng(n).integers(0, 4, 6)
        _draw(root / "clinic" / "xray" / f"film{n}.png", scores, 1000 + n)
        cells = ["-"] * 6 if n % 12 == 5 else scores.tolist()
        row = [f"C-{n}", f"xray\\film{n}.PNG", ("AP", "PA")[n % 2], *cells, f"reader {n}"]
        sheet.append(row)
    workbook.save(root / "clinic" / "scores.xlsx")


def _draw(path: Path, scores: NDArray[np.int_], seed: int) -> None:
    """Draw a picture with three zones on each side; a higher score is brighter."""
    pixels = np.random.default_rng(seed).normal(40, 12, (SIDE, SIDE))
    height, width = SIDE // 3, SIDE // 2
    for zone, score in enumerate(scores):
        top, left = zone % 3 * height, zone // 3 * width
        pixels[top + 2 : top + height - 2, left + 4 : left + width - 4] += 50 * score
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)
