"""The paper's two datasets in small: spreadsheets and drawn images in their own layouts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
from PIL import Image

from mdmt.data.synthetic_radiograph import draw_radiograph, write_dicom

ZONE_TASK = {"kind": "ordinal", "outputs": list("ABCDEF"), "levels": 4}
OUTCOME_TASK = {"kind": "classification", "classes": ["MILD", "SEVERE"]}
BRIXIA_HEADER = "Filename;Manufacturer;BrixiaScore;ConsensusTestset;Subject;Sex"
AFC_HEADER = ("Row_number", "ImageFile", "Hospital", "Age", "Sex", "Prognosis")

# Ten patients; the last has two images, of two manufacturers.
BRIXIA_ROWS = [
    "1.dcm;SIEMENS;013112;0;s1;M",
    "2.dcm;KODAK;000000;0;s2;F",
    "3.dcm;Agfa-Gevaert;333333;0;s3;M",
    "4.dcm;FUJIFILM Corporation;102030;1;s4;",
    "5.dcm;CARESTREAM HEALTH;000123;0;s5;F",
    "6.dcm;Villa Sistemi Medicali;111222;0;s6;M",
    "7.dcm;DIGITEC;222111;0;s7;F",
    "8.dcm;SIEMENS;321000;1;s8;M",
    "9.dcm;Agfa;000321;0;s9;F",
    "10.dcm;SIEMENS;110011;0;s10;M",
    "11.dcm;CARESTREAM;220022;0;s10;M",
]
# Both outcomes in each hospital.
AFC_ROWS = [
    (n, f"P_{n}", "ABC"[n // 4], 40 + n, n % 2, ("MILD", "SEVERE")[n % 2]) for n in range(12)
]


def write_brixia(
    root: Path, rows: Sequence[str] = BRIXIA_ROWS, *, header: str = BRIXIA_HEADER, bom: bool = True
) -> Path:
    """Write the table and an image for each row; each image differs."""
    folder = root / "dicom_clean"
    folder.mkdir(parents=True)
    text = "\n".join([header, *rows, ""])
    encoding = "utf-8-sig" if bom else "utf-8"
    (root / "metadata_global_v2.csv").write_text(text, encoding=encoding)
    for number in range(1, 12):
        picture = draw_radiograph(np.full(6, 1), np.random.default_rng(number), size=64, noise=0.1)
        kind = ("MONOCHROME1", "MONOCHROME2")[number % 2]
        write_dicom(folder / f"{number}.dcm", picture, patient="x", photometric=kind, bits=12)
    return root


def write_xlsx(path: Path, rows: Sequence[tuple[Any, ...]], header: Sequence[str]) -> None:
    workbook = openpyxl.Workbook()
    for row in (header, *rows):
        workbook.worksheets[0].append(list(row))
    workbook.save(path)


def write_aiforcovid(
    root: Path, rows: Sequence[tuple[Any, ...]] = AFC_ROWS, *, header: Sequence[str] = AFC_HEADER
) -> Path:
    """Write release 1 and an image for each of twelve patients; each image differs."""
    (root / "imgs").mkdir(parents=True)
    write_xlsx(root / "AIforCOVID.xlsx", rows, header)
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64), np.uint8)
        Image.fromarray(pixels).save(root / "imgs" / f"P_{number}.png")
    return root


def write_split_files(folder: Path, header: str, **lines: Sequence[str]) -> Path:
    """Write ``train.txt``, ``val.txt`` and ``test.txt``."""
    folder.mkdir(parents=True)
    for split in ("train", "val", "test"):
        (folder / f"{split}.txt").write_text("\n".join([header, *lines.get(split, ()), ""]))
    return folder


def brixia_site(root: Path, task: dict[str, Any] = ZONE_TASK, **dataset: Any) -> dict[str, Any]:
    return {
        "name": "bx",
        "dataset": {"kind": "brixia", "root": str(root)} | dataset,
        "tasks": {"severity": task},
    }


def aiforcovid_site(root: Path, **dataset: Any) -> dict[str, Any]:
    return {
        "name": "afc",
        "dataset": {"kind": "aiforcovid", "root": str(root)} | dataset,
        "tasks": {"prognosis": OUTCOME_TASK},
    }
