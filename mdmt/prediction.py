"""Read images as for training, and turn the outputs of the heads of a release into a table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from mdmt.appearance import Fences, unusual
from mdmt.config import FederationConfig
from mdmt.data.batches import normalise
from mdmt.data.find_files import FileFinder
from mdmt.data.header_checks import header_notices
from mdmt.data.images import read_mask, read_radiograph
from mdmt.data.preprocessing import preprocess
from mdmt.errors import BadInput, ImageError
from mdmt.models import MDMTModel
from mdmt.nearest import nearest
from mdmt.tasks import Task

Models = list[tuple[str, str, MDMTModel]]
"""Task, site (empty for a shared head) and model, in the order of the columns."""
THRESHOLD = 0.5


@dataclass(frozen=True)
class Batch:
    """Some images: their files, preprocessed pixels (B, S, S) and unusual facts of the header."""

    paths: list[Path]
    pixels: NDArray[np.uint8]
    headers: list[list[str]]


@dataclass
class Images:
    """Images that are read one batch after the other.

    Attributes
    ----------
    config : FederationConfig
    paths : sequence of Path
    masks : Path or None
        Folder of lung masks: a mask has the name of its image.
    skip : bool
        Leave out unusable images and list them in `skipped`; else they are an error.
    """

    config: FederationConfig
    paths: Sequence[Path]
    masks: Path | None = None
    skip: bool = False
    skipped: list[str] = field(default_factory=list)

    def batches(self) -> Iterator[Batch]:
        """Yield the usable images."""
        size = self.config.training.evaluation_batch_size
        finder = None if self.masks is None else FileFinder(self.masks)
        read: list[tuple[Path, NDArray[np.uint8], list[str]]] = []
        for path in self.paths:
            try:
                read.append((path, self._read(path, finder), header_notices(path)))
            except ImageError as error:
                message = str(error) if str(path) in str(error) else f"{path}: {error}"
                if not self.skip:
                    raise ImageError(message) from error
                self.skipped.append(message)
            if len(read) == size:
                yield _batch(read)
                read = []
        if read:
            yield _batch(read)

    def _read(self, path: Path, finder: FileFinder | None) -> NDArray[np.uint8]:
        how, mask = self.config.preprocessing, None
        if finder is not None and how.lung_box:
            file = finder.find(path.name) or finder.find(path.stem)
            if file is None:
                raise ImageError(f"{path}: no mask with this name in {self.masks}")
            mask = read_mask(file)
        image = read_radiograph(path, voi=how.voi)
        return preprocess(image, mask, how, self.config.model.image_size)


def _batch(read: Sequence[tuple[Path, NDArray[np.uint8], list[str]]]) -> Batch:
    paths, pixels, headers = zip(*read, strict=True)
    return Batch(list(paths), np.stack(pixels), list(headers))


@dataclass(frozen=True)
class Predictor:
    """The heads of a release.

    Attributes
    ----------
    config : FederationConfig
    models : list of (str, str, MDMTModel)
    thresholds : mapping of str to float
        By task; see `read_thresholds`.
    fences : mapping of str to Fences
        By site: the usual appearance of its images. Empty if the release does not have them.
    device : torch.device
    """

    config: FederationConfig
    models: Models
    thresholds: Mapping[str, float]
    fences: Mapping[str, Fences]
    device: torch.device

    def __post_init__(self) -> None:
        for _, _, model in self.models:
            model.to(self.device)

    def names(self) -> list[str]:
        """Return the name of each model: its task, with its site if there are several."""
        tasks = [task for task, *_ in self.models]
        return [f"{t}@{site}" if tasks.count(t) > 1 else t for t, site, _ in self.models]

    def columns(self) -> Iterator[str]:
        """Yield the names of the columns of `rows`."""
        for prefix, (task, *_) in zip(self.names(), self.models, strict=True):
            space = self.config.space(task)
            names = [*space.prediction_names, *(["sum"] if space.summable else [])]
            names += ["label", "threshold"] if space.binary_outputs else []
            yield from (f"{prefix}.{name}" for name in names)

    def values(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.floating]]:
        """Return the predictions of each model for a batch, float64 (B, P)."""
        images = torch.from_numpy(pixels).to(self.device).unsqueeze(1).float() / 255
        images, found = normalise(images, self.config), []
        for task, _, model in self.models:
            with torch.inference_mode():
                outputs = model(images, [task])[task].float().cpu()
            found.append(self.config.space(task).decode(outputs.numpy()))
        return found

    def rows(self, pixels: NDArray[np.uint8]) -> list[list[str]]:
        """Return the cells of each image of a batch."""
        rows = [list[str]() for _ in pixels]
        for (task, *_), predicted in zip(self.models, self.values(pixels), strict=True):
            space, threshold = self.config.space(task), self.thresholds.get(task, THRESHOLD)
            for row, values in zip(rows, predicted, strict=True):
                numbers = [*values, values.sum()] if space.summable else list(values)
                row += [f"{value:.6g}" for value in numbers]
                if space.binary_outputs:
                    one = len(space.binary_outputs) == 1 or not space.exclusive
                    row += [label_of(space, values, threshold), f"{threshold:g}" if one else ""]
        return rows

    def notices(self, batch: Batch) -> list[str]:
        """Say what is unusual about each image; empty for a usual one."""
        odd = unusual(batch.pixels, self.fences)
        looks = [f"does not look like the images of the sites: {why}" if why else "" for why in odd]
        return [
            "; ".join(filter(None, [*header, look]))
            for header, look in zip(batch.headers, looks, strict=True)
        ]


def label_of(space: Task, values: NDArray[np.floating], threshold: float) -> str:
    """Return the predicted label, or the predicted findings with ``|`` between them.

    The threshold decides about the second of two classes and about each finding; of more classes
    the most probable one is predicted.
    """
    if not space.exclusive:
        present = (k for k in space.binary_outputs if values[k] >= threshold)
        return "|".join(space.prediction_names[k] for k in present)
    if len(space.binary_outputs) == 1:
        (positive,) = space.binary_outputs
        return space.labels[positive if values[positive] >= threshold else 1 - positive]
    return space.labels[int(np.argmax(values))]


def read_thresholds(texts: Sequence[str], config: FederationConfig) -> dict[str, float]:
    """Read ``TASK=VALUE``.

    Raises
    ------
    BadInput
        There is no such task, it has no threshold, or the value is not in (0, 1).
    """
    found = {}
    for text in texts:
        task, _, value = text.partition("=")
        if task not in config.tasks:
            hint = nearest(task, config.tasks) or f"; the tasks are {', '.join(config.tasks)}"
            raise BadInput(f"--threshold {text}: no task {task}{hint}")
        space = config.space(task)
        if not space.binary_outputs or (space.exclusive and len(space.binary_outputs) > 1):
            raise BadInput(f"--threshold {text}: {task} has no probability of one label")
        try:
            found[task] = float(value)
        except ValueError:
            found[task] = 0.0
        if not 0 < found[task] < 1:
            raise BadInput(f"--threshold {text}: expected a number between 0 and 1, as {task}=0.3")
    return found
