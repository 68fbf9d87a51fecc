"""The federated arm: the real server and client, in this process, then each site's own heads.

Predictions of single images are made here, where all sites are on one machine. The messages between
server and sites are those of any federation and carry no predictions.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from client.memory import kept_tensors
from mdmt.config import FederationConfig
from mdmt.errors import StateError
from mdmt.models import MDMTModel, build_model, head_task, set_arrays
from mdmt.releases import open_release
from mdmt.results.runs import read_lines
from server.run import RunDirectory
from simulation.simulate import simulate
from simulation.study.bench import Bench, Outcome

__all__ = ["run_federated"]


def run_federated(bench: Bench) -> Outcome:
    """Run a federation in the new folder ``run`` of the cell's work folder.

    Raises
    ------
    MDMTError
        The federation could not start, or failed, or a site kept no head of a task.
    """
    run = bench.work / "run"
    sites = {
        name: site.model_copy(update={"state_dir": run / "sites" / name})
        for name, site in bench.config.sites.items()
    }
    own = {key: getattr(bench.arm, key) for key in ("algorithm", "aggregation")}
    given = {key: value for key, value in own.items() if value is not None}
    config = bench.config.model_copy(update=given | {"references": (), "sites": sites})
    run.mkdir(parents=True)
    simulate(config, run, "inprocess")
    history = read_lines(run / "history.jsonl")
    steps = {
        site: sum(_steps(line, site, config) for line in history)
        for site in bench.sites(bench.study.target)
    }
    outcome = Outcome(steps=steps, history=history)
    models = _released if bench.study.checkpoint == "best" else _last
    for site, task, model in models(run, config):
        outcome.predict(bench, site, task, model)
    return outcome


def _steps(line: dict[str, Any], site: str, config: FederationConfig) -> int:
    """Return the optimiser steps of a site in a round: `local_steps` if the site withholds them."""
    facts = line["sites"].get(site, {})
    if "steps" not in facts:  # it did not train in this round
        return 0
    steps = config.training.local_steps if facts["steps"] is None else facts["steps"]
    return int(steps or 0)


def _released(run: Path, config: FederationConfig) -> Iterator[tuple[str, str, MDMTModel]]:
    """Models of each task's best round, which are those of the release, by site and task."""
    release = open_release(run / "release")
    for task in config.tasks:
        every = [name for name, site in sorted(config.sites.items()) if task in site.offered]
        missing = set(every)
        for site, model in release.models(task):
            for name in [site] if site else every:
                missing.discard(name)
                yield name, task, model
        if missing:
            raise StateError(f"the release has no head of {task} from {', '.join(sorted(missing))}")


def _last(run: Path, config: FederationConfig) -> Iterator[tuple[str, str, MDMTModel]]:
    """Models of the last round, by site and task."""
    saved = RunDirectory(run, config).checkpoints.load(config.training.rounds)
    for name, site in sorted(config.sites.items()):
        tasks = [task for task in config.tasks if task in site.offered]
        model = build_model(config, tasks, weights=False)
        broadcast = {
            key: tensor.numpy()
            for key, tensor in saved.tensors.items()
            if key.startswith("backbone.") or head_task(key) in tasks
        }
        set_arrays(model, broadcast)
        set_arrays(model, kept_tensors(site, config, saved.facts["run"], saved.round))
        for task in tasks:
            yield name, task, model
