"""Running commands, and tables of tiny PNG radiographs to run them on."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from mdmt.cli import app
from mdmt.deployment.kits import KIT_FILE, SiteFacts
from mdmt.files import write_json

Row = dict[str, str]


def run_cli(*arguments: object, answer: str | None = None) -> Result:
    """Run a command; `answer` is what the user types."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=answer)


def errors(result: Result) -> list[str]:
    """Lines on standard error that report an error."""
    assert "Traceback" not in result.output
    return [line for line in result.stderr.splitlines() if line.startswith("error: ")]


def patients(count: int = 10) -> list[Row]:
    """A row per patient: both outcomes and every zone score in each split."""
    splits = ["train"] * (count - 4) + ["val"] * 2 + ["test"] * 2
    return [
        {
            "image": f"images/{number}.png",
            "patient": f"p{number}",
            "split": splits[number],
            "prognosis": ("MILD", "SEVERE")[number % 2],
            **{zone: str((number + shift) % 4) for shift, zone in enumerate("ABCDEF")},
        }
        for number in range(count)
    ]


def write_rows(folder: Path, rows: list[Row]) -> Path:
    """Write ``labels.csv`` and an image for every row; each image differs."""
    (folder / "images").mkdir(parents=True)
    for row in rows:
        seed = int(hashlib.sha256(f"{folder.name}/{row['image']}".encode()).hexdigest()[:8], 16)
        pixels = np.random.default_rng(seed).integers(0, 255, (40, 40), np.uint8)
        Image.fromarray(pixels).save(folder / row["image"])
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "labels.csv"


def table_site(root: Path, *tasks: str) -> dict[str, Any]:
    return {
        "dataset": {"kind": "table", "root": str(root), "patient": "patient", "split": "split"},
        "tasks": {task: {} for task in tasks},
        "cache_dir": str(root.parent / "cache"),
        "device": "cpu",
        "workers": 0,
    }


def write_kit_facts(kit: Path, name: str = "ward") -> None:
    """Write ``kit.json`` of a site whose server nobody asks."""
    kit.mkdir()
    facts = SiteFacts(name=name, federation="test", server="h:1", app="0", versions={})
    write_json(kit / KIT_FILE, facts.model_dump(mode="json"))
