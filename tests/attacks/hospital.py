"""A deployed site as its coordinator meets it: messages in, messages out, and the kit's own file.

The coordinator of an attack has the server, the order of messages and every value in them. It has
neither the site's files nor its memory. `Hospital.truth` is for the score only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel

from client.app import app
from mdmt import __version__
from mdmt.blob import BLOB, Arrays, pack, unpack
from mdmt.config import FederationConfig, SiteConfig, save_config
from mdmt.data.cohort import Cohort, open_cohort
from mdmt.data.synthetic_radiograph import draw_radiograph
from mdmt.deployment.kits import SiteFacts
from mdmt.messages import Query, TrainOrder
from mdmt.models import broadcast_names, build_model, get_arrays
from mdmt.privacy.account import SECRET_BYTES
from mdmt.seeds import derive_seed
from server.deployment.kit_files import site_files
from simulation.engine import task_identity

_MESSAGES = count(1)


_COLUMNS = {"patient": "patient", "split": "split"}


@dataclass(frozen=True)
class Patients:
    """Patients of a hospital, with one image each. Their labels do not depend on their images."""

    train: int = 24
    val: int = 10
    test: int = 14
    severe: int = 12
    """Training patients with the label SEVERE."""
    rare: int = 0
    """Training patients with a label of the second task."""


class Refused(Exception):
    """The site did not run an order. The text is what the coordinator reads."""


@dataclass(frozen=True)
class Reply:
    """An answer of a site."""

    report: dict[str, Any]
    arrays: dict[str, NDArray[np.float32]]


class Hospital:
    """A site with drawn patients and the file of its kit.

    Parameters
    ----------
    folder : Path
        A new folder for this site.
    asked : FederationConfig
        The recipe that the coordinator sends.
    approved : str or None
        Hash of the recipe that the hospital approved. None switches approval off, which only a
        simulated site can do.
    limits : bool
        Keep the limits that the kit ships with.
    changes : mapping
        Other keys of the policy.
    """

    def __init__(
        self,
        folder: Path,
        asked: FederationConfig,
        *,
        approved: str | None = None,
        limits: bool = False,
        changes: Mapping[str, Any] | None = None,
        name: str = "city-hospital",
        patients: Patients | None = None,
    ) -> None:
        self.asked, self.name, self.recipe = asked, name, asked.recipe
        site = yaml.safe_load(_kit_file(name, asked))
        policy = dict(site["policy"]) if limits else {}
        policy["recipes"] = None if approved is None else [approved]
        site["policy"] = policy | dict(changes or {})
        root = folder / "data"
        write_patients(patients or Patients(), root, name, asked.model.image_size)
        site["dataset"] = {"kind": "table", "root": str(root)} | _COLUMNS
        site |= {"device": "cpu", "threads": 1, "workers": 0}
        site |= {"cache_dir": str(folder / "cache"), "state_dir": str(folder / "state")}
        self.config = SiteConfig.model_validate(site)
        self.file = folder / "site.yaml"
        self.file.write_text(yaml.safe_dump(site))
        _write_secret(folder / "state")
        self._context = Context(1, 2, {"site": str(self.file)}, RecordDict(), {})
        if approved is None:
            save_config(asked.model_copy(update={"sites": {name: self.config}}), self.file)
            config = {"federation": str(self.file), "overrides": ""}
            self._context = Context(1, 2, {"partition-id": 0}, RecordDict(), config)

    def ask(self, kind: str, order: BaseModel, arrays: Arrays | None = None) -> Reply:
        """Send an order through the site's ClientApp.

        Raises
        ------
        Refused
        """
        content = RecordDict({"config": ConfigRecord({"order": order.model_dump_json()})})
        if arrays is not None:
            blob = pack(arrays)
            content["arrays"] = ArrayRecord({BLOB: Array("uint8", (len(blob),), BLOB, blob)})
        with task_identity():
            message = Message(content, 2, kind)
            message.metadata.__dict__["_message_id"] = f"message-{next(_MESSAGES)}"
            reply = app(message, self._context)
        if reply.has_error():
            raise Refused(reply.error.reason)
        report = json.loads(str(reply.content.config_records["report"]["json"]))
        blobs = [a.data for r in reply.content.array_records.values() for a in r.values()]
        return Reply(report, dict(unpack(blobs[0])) if blobs else {})

    def card(self) -> dict[str, Any]:
        """Ask for the site card."""
        return self.ask("query", Query(recipe=self.recipe)).report

    def train(
        self,
        arrays: Arrays,
        *,
        run: int = 1,
        number: int = 1,
        coefficients: Mapping[str, float] | None = None,
        rate: float = 1.0,
    ) -> Reply:
        """Order a round from `arrays`."""
        tasks = coefficients or dict.fromkeys(self.asked.tasks, 1.0)
        order = TrainOrder(
            run=f"{run:012x}",
            round=number,
            recipe=self.recipe,
            coefficients=dict(tasks),
            lr_factor=rate,
            keep=(),
        )
        return self.ask("train", order, arrays)

    @cached_property
    def truth(self) -> Cohort:
        """The patients. Only the score of an attack may look at them."""
        return open_cohort(self.config, self.asked)

    @property
    def images(self) -> NDArray[np.float64]:
        """The training images in [0, 255], (N, S, S)."""
        return self.truth.pixels[self.truth.manifest.indices("train")].astype(np.float64)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of each training image."""
        task = next(iter(self.asked.tasks))
        train = self.truth.manifest.indices("train")
        return self.truth.manifest.targets[task][train, 0].astype(np.int64)


def _write_secret(state: Path) -> None:
    """Give the site a known secret for its noise, so that a test gives the same score each time."""
    state.mkdir()
    for name, content in (("dp.secret", bytes(SECRET_BYTES)), ("dp.ledger.jsonl", b"")):
        (state / name).write_bytes(content)
        (state / name).chmod(0o600)


def initial_arrays(config: FederationConfig) -> dict[str, NDArray[np.float32]]:
    """The arrays of round 1, which follow from the recipe."""
    model = build_model(config, tuple(config.tasks), weights=False)
    return get_arrays(model, broadcast_names(model, config.aggregation))


def first_image(victim: Hospital, number: int) -> int:
    """Index of the training image that is first in the batches of a round.

    The order of the images follows from the federation's seed, which the coordinator chose.
    """
    seed = derive_seed(victim.asked.seed, "train", victim.name, number)
    return int(np.random.default_rng(seed).permutation(len(victim.labels))[0])


def write_patients(patients: Patients, root: Path, name: str, size: int) -> None:
    """Write radiographs and their table."""
    rng = np.random.default_rng(derive_seed(0, "patients", name))
    severe = rng.permutation(patients.train) < patients.severe
    held_out = [rng.random() < 0.5 for _ in range(patients.val + patients.test)]
    splits = [(s, n) for s in ("train", "val", "test") for n in range(getattr(patients, s))]
    root.mkdir(parents=True)
    lines = ["image,patient,split,prognosis,finding"]
    for (split, number), label in zip(splits, [*severe, *held_out], strict=True):
        picture = draw_radiograph(rng.integers(0, 4, 6), rng, size=size, noise=0.05)
        image = f"{split}-{number}.png"
        Image.fromarray(np.rint(picture * 255).astype(np.uint8)).save(root / image)
        finding = ("NO", "YES")[number % 2] if split != "train" or number < patients.rare else ""
        labels = f"{'SEVERE' if label else 'MILD'},{finding}"
        lines.append(f"{image},{split}-{number},{split},{labels}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")


def _kit_file(name: str, asked: FederationConfig) -> str:
    facts = SiteFacts(
        federation=asked.name,
        server="localhost:9092",
        app="a" * 64,
        name=name,
        versions={"mdmt": __version__},
    )
    return site_files(facts, asked)["site.yaml"]
