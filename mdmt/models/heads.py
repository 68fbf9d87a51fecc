"""Heads, from pooled features to the outputs of a task; and the model of backbone and heads."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from mdmt.config import FederationConfig, HeadConfig
from mdmt.errors import ConfigError
from mdmt.models.backbones import build_backbone, feature_width
from mdmt.models.weights import load_weights
from mdmt.seeds import derive_seed


class MDMTModel(nn.Module):
    """A backbone f(x; θ) with a head h_t(z; φ_t) for each task.

    Parameters
    ----------
    backbone : nn.Module
        Takes images (N, C, H, W), returns features (N, F).
    heads : mapping of str to nn.Module
        Module by task: takes features (N, F), returns outputs (N, K_t).

    Raises
    ------
    ConfigError
        A task has a name that PyTorch reserves.
    """

    def __init__(self, backbone: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict()
        for task, head in heads.items():
            if hasattr(self.heads, task):
                raise ConfigError(f"tasks.{task}: PyTorch reserves this name; choose another")
            self.heads[task] = head

    def forward(self, images: Tensor, tasks: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Run the backbone once, and then the heads of `tasks` on its features.

        Parameters
        ----------
        images : Tensor, float, (N, C, H, W)
        tasks : iterable of str, optional
            The default is all tasks.

        Returns
        -------
        dict of str to Tensor
            Outputs (N, K_t) by task.
        """
        features = self.backbone(images)
        names = self.heads.keys() if tasks is None else tasks
        return {task: self.heads[task](features) for task in names}


def build_head(config: HeadConfig, features: int, outputs: int) -> nn.Sequential:
    """Build one head with initial values from torch's global generator.

    Parameters
    ----------
    config : HeadConfig
        Dropout comes before every linear layer except the first, or before the only one.
    features, outputs : int
        F and K_t.

    Returns
    -------
    nn.Sequential
        Takes (N, features), returns (N, outputs); the last layer is linear. The head of the paper
        is F → 128 → 32 → K with ReLU and dropout .5.
    """
    *inner, last = pairwise((features, *config.hidden, outputs))
    layers: list[nn.Module] = []
    for width, next_width in inner:
        layers += [nn.Linear(width, next_width), nn.ReLU(), nn.Dropout(config.dropout)]
    if not inner and config.dropout:
        layers.append(nn.Dropout(config.dropout))
    return nn.Sequential(*layers, nn.Linear(*last))


def build_model(
    config: FederationConfig,
    tasks: Sequence[str],
    *,
    weights: bool,
    backbone: nn.Module | None = None,
) -> MDMTModel:
    """Build the model of a site or of the server, on the CPU.

    The initial values of the backbone depend on the federation's seed only; those of a head depend
    on the seed and the name of the task. The state of torch's generator does not change.

    Parameters
    ----------
    config : FederationConfig
    tasks : sequence of str
        Tasks that get a head.
    weights : bool
        Load `config.model.weights` into the backbone. A site does not need this: the server sends
        the weights.
    backbone : nn.Module, optional
        A backbone that `build_model` built before for the same `config.model`.

    Raises
    ------
    ConfigError
        The federation has no such task, or the backbone cannot be built.
    WeightsError
        The weights cannot be loaded.
    """
    if unknown := sorted(set(tasks) - set(config.tasks)):
        raise ConfigError(f"task {unknown[0]} is not one of the federation {config.name}")
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also change the generators of the GPUs.
        torch.default_generator.manual_seed(derive_seed(config.seed, "backbone"))
        backbone = backbone or build_backbone(config.model)
        heads = {}
        for task in tasks:
            torch.default_generator.manual_seed(derive_seed(config.seed, "head", task))
            outputs = config.space(task).n_outputs
            heads[task] = build_head(config.tasks[task].head, feature_width(backbone), outputs)
    if weights:
        load_weights(backbone, config.model)
    return MDMTModel(backbone, heads)
