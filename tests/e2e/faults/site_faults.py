"""What may go wrong at a site while it trains. The file in MDMT_TEST_FAULT says what and when.

It holds lines of ``KIND ROUND``, and is read at every order, so that a test can change its mind.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from mdmt.blob import pack, unpack
from mdmt.messages import TrainReport

SECRET = "patient-4711.dcm"
"""A file name that an exception tells, and nobody but the site may."""


def apply(module: Any) -> None:
    """Wrap `Site.train` of the module ``client.site``."""
    honest = module.Site.train

    def train(self: Any, order: Any, arrays: Any) -> Any:
        file = Path(os.environ["MDMT_TEST_FAULT"])
        lines = file.read_text().splitlines() if file.exists() else []
        faults = {int(number): kind for kind, number in map(str.split, lines)}
        kind = faults.get(order.round, "")
        if kind == "exception":
            raise ValueError(f"{self.config.state_root}/{SECRET}: cannot be read")
        if kind in ("pause", "hold"):
            file.with_suffix(".pid").write_text(str(os.getpid()))
        if kind == "pause":  # until somebody kills this process
            time.sleep(600)
        while kind == "hold" and file.exists():  # until the test has seen enough
            time.sleep(0.1)
        if kind.startswith("slow"):
            time.sleep(float(kind.removeprefix("slow")))
        report, blob = honest(self, order, arrays)
        if kind not in BROKEN:
            return report, blob
        report, updated = BROKEN[kind](report, unpack(blob))
        return report, pack(updated)

    module.Site.train = train


def _first(arrays: dict[str, Any], value: Any) -> dict[str, Any]:
    name = min(arrays)
    return arrays | {name: value(arrays[name])}


def _telling(report: TrainReport, validation: dict[str, float]) -> TrainReport:
    """A report that its own checks would refuse."""
    return TrainReport.model_construct(**report.model_dump() | {"validation": validation})


BROKEN = {
    "nan": lambda r, a: (r, _first(a, lambda x: np.full_like(x, np.nan))),
    "absurd": lambda r, a: (r, _first(a, lambda x: np.full_like(x, 1e30))),
    "shape": lambda r, a: (r, _first(a, lambda x: np.zeros((3, *x.shape), np.float32))),
    "extra": lambda r, a: (r, a | {"heads.prognosis.weight": np.zeros(2, np.float32)}),
    "large": lambda r, a: (
        r,
        a | {f"{name}.{i}": x for name, x in a.items() for i in range(99)},
    ),
    "odd": lambda r, a: (_telling(r, {"../../etc/passwd": 1.0, "\x1b[2J": 2.0}), a),
    "foreign": lambda r, a: (_telling(r, {"prognosis/auroc": 1.0}), a),
    "negative": lambda r, a: (_telling(r, {"severity/examples": -8}), a),
}
