"""Read a release: the backbone of each task, and the heads that sites published with it."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

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
