"""Read a release: the backbone of each task, and the heads that sites published with it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from mdmt.appearance import Fences
from mdmt.checkpoints import RoundFiles, round_of
from mdmt.config import FederationConfig, build_config
from mdmt.config.renamed import SAVED, upgrade
from mdmt.errors import BadInput, StateError
from mdmt.files import read_json
from mdmt.models import MDMTModel, build_model, head_task, set_arrays

RELEASE_FORMAT = 1
APPEARANCE = "appearance.json"
"""The file of a release with the fences of each site (`mdmt.appearance`)."""


def backbone_file(number: int) -> str:
    """Return the name of the backbone of a round within a release."""
    return f"backbone-{number:05d}.safetensors"


def site_backbone_file(site: str, number: int) -> str:
    """Return the name of a backbone that the server made for one site, within a release."""
    return f"sites/{site}-{number:05d}.backbone.safetensors"


def site_file(site: str, number: int) -> str:
    """Return the name of a site's heads and local norms after a round within a release."""
    return f"sites/{site}-{number:05d}.safetensors"


@dataclass(frozen=True)
class Release:
    """A release folder.

    Attributes
    ----------
    folder : Path
    run : str
        Id of the run that made it.
    hash : str
        Hash of the federation, by the version of MDMT that wrote the release.
    config : FederationConfig
        Without sites.
    rounds : dict of str to int
        Task → its released round.
    site_backbones : frozenset of str
        Files of sites with a backbone of their own, by an algorithm that makes one per site. Other
        sites use the common backbone.
    """

    folder: Path
    run: str
    hash: str
    config: FederationConfig
    rounds: dict[str, int]
    site_backbones: frozenset[str] = frozenset()

    @property
    def fences(self) -> dict[str, Fences]:
        """The usual appearance of the images of each site, if the release has it."""
        file = self.folder / APPEARANCE
        if not file.is_file():
            return {}
        return {
            site: {name: (low, high) for name, (low, high) in found.items()}
            for site, found in read_json(file)["sites"].items()
        }

    def models(self, task: str) -> Iterator[tuple[str, MDMTModel]]:
        """Yield (site, model in evaluation mode) for every head of `task` in the release.

        The site of a shared head is ``""``.
        """
        number = self.rounds[task]
        if self.config.aggregation.heads == "shared":
            yield "", self._model("", number, {})
            return
        end = f"-{number:05d}.safetensors"
        for file in sorted((self.folder / "sites").glob(f"*{end}")):
            own = _read(file)
            if task in _tasks(own):
                site = file.name.removesuffix(end)
                yield site, self._model(site, number, own)

    def all_models(self, heads: Path | None = None) -> list[tuple[str, str, MDMTModel]]:
        """Return (task, site, model) for every head of every task.

        Parameters
        ----------
        heads : Path, optional
            A site's own saved state, for its heads; see `site_models`.

        Raises
        ------
        BadInput
            There is no head.
        """
        if heads is not None:
            return list(self.site_models(heads))
        found = [(t, site, model) for t in self.config.tasks for site, model in self.models(t)]
        if not found:
            raise BadInput(
                f"{self.folder}: holds no head for any task: heads stayed with the sites; a site"
                " adds its own with --heads <state_dir>/.../round-NNNNN.safetensors"
            )
        return found

    def model(self, task: str, site: str | None = None) -> nn.Sequential:
        """Return the backbone and one head as a plain module, in evaluation mode.

        It takes images, float32 (N, C, S, S), preprocessed and normalised as `config` says, and
        returns the outputs of the head, (N, K). ``config.space(task).decode`` turns outputs into
        predictions.

        Parameters
        ----------
        task : str
        site : str, optional
            Needed if several sites have a head of this task.

        Raises
        ------
        BadInput
            The release has no such head, or several.
        """
        found = dict(self.models(task)) if task in self.rounds else {}
        if site is None and len(found) == 1:
            (site,) = found
        if site not in found:
            there = ", ".join(name or "all sites" for name in found) or "none"
            raise BadInput(f"{self.folder}: name a site with a head of {task}: {there}")
        return nn.Sequential(found[site].backbone, found[site].heads[task]).eval()

    def predict(
        self,
        images: str | Path | Sequence[str | Path],
        *,
        masks: Path | None = None,
        heads: Path | None = None,
        device: str = "auto",
    ) -> dict[str, NDArray[np.floating]]:
        """Predict radiographs with every head of the release.

        Parameters
        ----------
        images : path or sequence of paths
            Files; a folder stands for the image files in it, sorted.
        masks : Path, optional
            Folder of lung masks with the names of the images, for a lung box.
        heads : Path, optional
            See `all_models`.
        device : str
            ``auto``, ``cpu`` or ``cuda:0``.

        Returns
        -------
        dict of str to ndarray
            Task, or ``task@site`` if several sites have a head of it → predictions, float64 (N, P),
            in the order of the images and of the task's `prediction_names`.

        Raises
        ------
        BadInput
            An image cannot be used, or there is none.
        """
        from mdmt.data.image_files import image_files
        from mdmt.prediction import Images, Predictor
        from mdmt.training import resolve_device

        given = [images] if isinstance(images, str | Path) else images
        paths = [
            file
            for path in map(Path, given)
            for file in (image_files(path)[0] if path.is_dir() else [path])
        ]
        if not paths:
            raise BadInput("no image to predict")
        predictor = Predictor(
            self.config, self.all_models(heads), {}, self.fences, resolve_device(device)
        )
        read = Images(self.config, paths, masks)
        parts = [predictor.values(batch.pixels) for batch in read.batches()]
        every = map(np.concatenate, zip(*parts, strict=True))
        return dict(zip(predictor.names(), every, strict=True))

    def site_models(self, file: Path) -> Iterator[tuple[str, str, MDMTModel]]:
        """Yield (task, site, model) for the heads in a site's own saved state.

        Parameters
        ----------
        file : Path
            ``round-NNNNN.safetensors`` in the state folder of a site.

        Raises
        ------
        BadInput
            The file is not a saved state of this run, or not of a released round.
        """
        identity = {"run": self.run, "federation": self.hash}
        state, number = RoundFiles(file.parent, identity), round_of(file)
        if number is None:
            raise BadInput(f"{file}: not a saved state of a site (round-NNNNN.safetensors)")
        try:
            saved = state.load(number)
        except StateError as error:
            raise BadInput(f"{file}: not a saved state of this release: {error}") from error
        # Version 0.1.0 called the mode an arm.
        mode = saved.identity.get("mode", saved.identity.get("arm"))
        if mode == "local":
            raise BadInput(f"{file}: a model that the site trained alone, not one of this release")
        if mode != (expected := "refitted" if self.config.training.refit_heads else "federated"):
            raise BadInput(
                f"{file}: heads that were not released; give the file of this name in"
                f" {file.parent.parent / expected}"
            )
        own = {n: v for n, v in saved.tensors.items() if n.startswith(("heads.", "backbone."))}
        tasks = _tasks(own)
        # If a site missed a round, its heads are those of the last round it took part in.
        fitting = [task for task in tasks if state.latest(self.rounds[task]) == number]
        if not fitting:
            rounds = ", ".join(f"{self.rounds[task]} ({task})" for task in tasks)
            raise BadInput(
                f"{file}: not the heads of a released round; those are {rounds or 'none'}"
            )
        site = saved.identity.get("site", "")
        for task in fitting:
            yield task, site, self._model(site, self.rounds[task], own)

    def _model(self, site: str, number: int, own: dict[str, Tensor]) -> MDMTModel:
        """Build the model of a round: the released backbone and a site's own tensors."""
        file = site_backbone_file(site, number)
        file = file if file in self.site_backbones else backbone_file(number)
        backbone = _read(self.folder / file)
        model = build_model(self.config, _tasks(own | backbone), weights=False)
        set_arrays(model, {name: value.numpy() for name, value in backbone.items()})
        set_arrays(model, own)
        return model.eval()


def open_release(folder: Path) -> Release:
    """Open a release folder.

    Raises
    ------
    BadInput
        There is no release, one of another format, or one that needs a package that is missing.
    """
    file = folder / "release.json"
    try:
        facts = read_json(file)
        if facts["format"] != RELEASE_FORMAT:
            raise BadInput(f"{folder}: release format {facts['format']}, this version reads 1")
        config = build_config(FederationConfig, upgrade(facts["recipe"]), file, SAVED)
        own = frozenset(facts.get("site_backbones", ()))  # absent in 0.3.0
        return Release(folder, facts["run"], facts["hash"], config, facts["rounds"], own)
    except (OSError, KeyError, ValueError) as error:
        raise BadInput(f"{folder}: not a release; give the release/ folder of a run") from error


def _tasks(tensors: Iterable[str]) -> list[str]:
    """Return the tasks whose heads are among the named tensors."""
    return sorted({task for name in tensors if (task := head_task(name)) is not None})


def _read(path: Path) -> dict[str, Tensor]:
    try:
        with torch.inference_mode(False):
            return load_file(path)  # type: ignore[no-any-return]
    except (OSError, SafetensorError) as error:
        raise StateError(f"{path}: cannot be read: {error}") from error
