"""Run a federation on one machine, from a configuration to a run directory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mdmt.config import FederationConfig, SiteConfig, save_config
from mdmt.errors import ConfigError
from mdmt.files import read_json

if TYPE_CHECKING:
    from client.deployment.worker import Worker
    from mdmt.appearance import Fences

Engine = Literal["inprocess", "ray"]


def prepare(
    config: FederationConfig, progress: Callable[[str, int, int], None] = lambda site, done, n: None
) -> dict[str, Fences]:
    """Open the dataset of every site and build its image cache, to find bad input before a run.

    Parameters
    ----------
    config : FederationConfig
    progress : callable
        Called with (site, done, total) images.

    Returns
    -------
    dict of str to Fences
        The usual appearance of the images of each site that has enough of them.

    Raises
    ------
    BadInput
        The message names the site and the problem.
    """
    from mdmt.appearance import fences
    from mdmt.data.cohort import open_cohort
    from mdmt.training import resolve_device

    if not config.sites:
        raise ConfigError(f"{config.name}: a simulation needs sites; see configs/demo.yaml")
    looks = {}
    for name, site in sorted(config.sites.items()):
        resolve_device(site.device)
        cohort = open_cohort(
            site,
            config,
            progress=lambda done, n, name=name: progress(name, done, n),  # type: ignore[misc]
        )
        looks[name] = fences(cohort.pixels)
    return {name: found for name, found in looks.items() if found}


def simulate(
    config: FederationConfig,
    out: Path,
    engine: Engine,
    workers: Sequence[Worker] = (),
    *,
    resume: bool = False,
) -> None:
    """Run a prepared federation on this machine.

    Parameters
    ----------
    config : FederationConfig
    out : Path
        The run directory: an empty folder, or the one to resume.
    engine : {"inprocess", "ray"}
    workers : sequence of Worker
        Processes that answer for the sites of the first engine (`simulation.workers`); without any,
        this process does.
    resume : bool
        Continue after the last complete round of the run in `out`.

    Raises
    ------
    MDMTError
        The federation could not start, or failed.
    """
    from simulation.divide import divide_sites
    from simulation.heads import release_heads

    out = out.resolve()  # a path in federation.yaml is relative to that file
    config = config.model_copy(
        update={"sites": {name: _at_home(site, out) for name, site in config.sites.items()}}
    )
    config = divide_sites(config, out)
    file = out / "federation.yaml"
    save_config(config, file)
    if engine == "ray":
        from simulation.ray import run_ray

        run_ray(file, out, len(config.sites), threads=config.training.threads, resume=resume)
    else:
        from simulation.engine import run_inprocess

        run_inprocess(file, out, len(config.sites), workers, resume=resume)
    if config.aggregation.heads == "local" or config.aggregation.norm_layers == "local":
        release_heads(out / "release", config, read_json(out / "release" / "release.json"))


def _at_home(site: SiteConfig, out: Path) -> SiteConfig:
    """Set the default `state_dir` of a simulated site: a folder in the run directory."""
    return site.model_copy(update={"state_dir": site.state_dir or out / "sites" / site.name})
