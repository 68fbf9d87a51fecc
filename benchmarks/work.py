"""The work that is done three times over: by us, by a bare loop, by a stock Flower app."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from mdmt.files import write_json, write_text

__all__ = ["CONFIG", "FACTS", "Work", "write_work"]

CONFIG = "federation.yaml"
FACTS = "work.json"
"""The same facts without our vocabulary, for the bare loop and the stock app."""


@dataclass(frozen=True)
class Work:
    """Sites that train one classifier by SGD.

    Attributes
    ----------
    backbone : str
        timm's name.
    side : int
        Of an image in pixels.
    sites, rounds : int
    steps : int
        SGD steps per site and round.
    batch : int
        Images per step.
    evaluated : int
        About how many images a site has to validate on, and to test on.
    augmented : bool
        With the augmentation that is the default.
    drawn : int
        Side of the drawn radiographs in pixels.
    private : bool, optional
        With frozen normalisation: True with differential privacy, False without.
    """

    backbone: str
    side: int
    sites: int = 2
    rounds: int = 5
    steps: int = 8
    batch: int = 32
    evaluated: int = 32
    augmented: bool = False
    drawn: int = 64
    private: bool | None = None

    @property
    def patients(self) -> int:
        """One image each. A few are to spare: every batch of a round is full."""
        return self.steps * self.batch + 2 * self.evaluated + 8

    def federation(self, folder: Path) -> dict[str, Any]:
        """The federation's configuration; images are drawn and cached in `folder`."""
        share = self.evaluated / self.patients
        dataset = {
            "kind": "synthetic",
            "patients": self.patients,
            "images_per_patient": 1,
            "size": self.drawn,
            "val_fraction": share,
            "test_fraction": share,
        }
        site = {
            "dataset": dataset,
            "tasks": {"prognosis": {}},
            "device": "cpu",
            "cache_dir": str(folder / "cache"),
        }
        return {
            "name": "bench",
            "model": {"backbone": self.backbone, "image_size": self.side},
            "tasks": {"prognosis": {"kind": "classification", "classes": ["MILD", "SEVERE"]}},
            "augmentation": {} if self.augmented else {"p": 0},
            "training": {
                "rounds": self.rounds,
                "local_steps": self.steps,
                "batch_size": self.batch,
                "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0.9},
                "threads": 1,
            },
            **self._privacy(),
            "sites": {f"site-{i:03d}": site for i in range(self.sites)},
        }

    def _privacy(self) -> dict[str, Any]:
        """A step with privacy draws `batch` patients on average."""
        if self.private is None:
            return {}
        rate = self.batch / (self.steps * self.batch + 8)
        dp = {"noise_multiplier": 1.0, "sample_rate": rate}
        return {
            "aggregation": {"weighting": "uniform", "norm_layers": "frozen"},
            "privacy": {"dp": dp if self.private else None},
        }


def write_work(work: Work, folder: Path) -> None:
    """Write the two files that say what is to be done."""
    write_text(folder / CONFIG, yaml.safe_dump(work.federation(folder), sort_keys=False))
    write_json(folder / FACTS, asdict(work))
