"""The arms of a study: each trains on one fold with one seed, then predicts the test images."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from client.memory import kept_tensors
from mdmt.central import Start, Trained, train_centrally
from mdmt.config import FederationConfig, ReleaseConfig
from mdmt.errors import StateError
from mdmt.models import MDMTModel, build_model, head_task, set_arrays
from mdmt.refit import linear_probe, refit_heads
from mdmt.releases import open_release
from mdmt.results.runs import read_lines
from server.federation import saved_state
from server.run import RunDirectory
from simulation.simulate import simulate
from simulation.study.bench import Bench, Outcome
from simulation.study.metadata import has_columns, predict_from_columns


def run_federated(bench: Bench) -> Outcome:
    """Run a federation in the new folder ``run`` of the cell's work folder.

    Predictions of single images are made here, where all sites are on one machine. The messages
    between server and sites are those of any federation and carry no predictions.

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
    release = ReleaseConfig(checkpoint=bench.study.checkpoint)
    config = bench.config.model_copy(update={"references": (), "release": release, "sites": sites})
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
    state = saved_state(saved)
    for name, site in sorted(config.sites.items()):
        tasks = [task for task in config.tasks if task in site.offered]
        model = build_model(config, tasks, weights=False)
        broadcast = config.algorithm.broadcast(state, name)
        set_arrays(model, {k: v for k, v in broadcast.items() if head_task(k) in (None, *tasks)})
        set_arrays(model, kept_tensors(site, config, saved.facts["run"], saved.round))
        for task in tasks:
            yield name, task, model


def _constant(bench: Bench) -> Outcome:
    outcome = Outcome()
    for site, cohort in bench.cohorts.items():
        train, test = (cohort.manifest.indices(split) for split in ("train", "test"))
        for task in bench.tasks(site):
            constant = bench.config.space(task).constant(cohort.manifest.targets[task][train])
            outcome.predictions[site, task] = np.tile(constant, (len(test), 1))
    return outcome


def _metadata(bench: Bench) -> Outcome:
    outcome = Outcome()
    for site, cohort in bench.cohorts.items():
        if not has_columns(cohort.manifest, bench.arm.columns):
            continue  # a site without the target; the others are checked before the first cell
        for task in bench.tasks(site):
            outcome.predictions[site, task] = predict_from_columns(
                cohort.manifest, task, bench.config.sites[site], bench.arm.columns
            )
    return outcome


def _probe(bench: Bench) -> Outcome:
    outcome = Outcome()
    model = build_model(bench.config, list(bench.config.tasks), weights=True).to(bench.device)
    for site, cohort in bench.cohorts.items():
        tasks = bench.tasks(site)
        probe = linear_probe(model, bench.config, tasks)
        refitted = refit_heads(probe, cohort, bench.config, tasks, bench.device, choose=False)
        for task in tasks:
            outcome.predict(bench, site, task, refitted.final)
    return outcome


def _local(bench: Bench) -> Outcome:
    outcome = Outcome()
    for site in bench.cohorts:
        _alone(bench, outcome, site, bench.tasks(site), bench.config.training.rounds)
    return outcome


def _finetune(bench: Bench) -> Outcome:
    rounds = bench.config.training.rounds
    start, _ = _single_task(bench, bench.study.source(bench.arm), rounds)
    outcome = Outcome()
    for site in bench.sites(bench.study.target):
        _alone(bench, outcome, site, [bench.study.target], rounds, start)
    return outcome


def _average_init(bench: Bench) -> Outcome:
    """Each stage has half of the rounds, so that the target has as many steps as in other arms."""
    target, rounds = bench.study.target, bench.config.training.rounds
    first = rounds // 2
    own, steps = _single_task(bench, target, first)
    source, _ = _single_task(bench, bench.study.source(bench.arm), first)
    start = {
        name: tensor.lerp(source[name], 1 - bench.arm.beta)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in own.items()
    }
    outcome = Outcome(steps=dict.fromkeys(bench.sites(target), steps))
    if bench.arm.then == "pooled":
        return _together(bench, outcome, rounds - first, start)
    for site in bench.sites(target):
        _alone(bench, outcome, site, [target], rounds - first, start)
    return outcome


def _pooled(bench: Bench) -> Outcome:
    return _together(bench, Outcome(), bench.config.training.rounds)


def _single_task(bench: Bench, task: str, rounds: int) -> tuple[dict[str, Tensor], int]:
    """Train one task on the pooled data of its sites; return the backbone and the steps.

    The backbone is that of the round that would be tested.
    """
    trained = _train(bench, bench.sites(task), [task], f"{task} first", rounds)
    return trained.backbone_of(task, bench.study.checkpoint), trained.steps


def _alone(
    bench: Bench, outcome: Outcome, site: str, tasks: list[str], rounds: int, start: Start = None
) -> None:
    """Train with the data of one site. The model predicts the test images of this site."""
    trained = _train(bench, [site], tasks, site, rounds, start)
    _test(bench, outcome, trained, site, tasks)
    outcome.history = [*outcome.history, *(line | {"site": site} for line in trained.history)]


def _together(bench: Bench, outcome: Outcome, rounds: int, start: Start = None) -> Outcome:
    """Train all tasks on the pooled data of all sites."""
    trained = _train(bench, list(bench.cohorts), list(bench.config.tasks), "pooled", rounds, start)
    for site in bench.cohorts:
        _test(bench, outcome, trained, site, bench.tasks(site))
    return replace(outcome, history=trained.history)


def _train(
    bench: Bench, sites: Sequence[str], tasks: list[str], who: str, rounds: int, start: Start = None
) -> Trained:
    cohorts = {site: bench.cohorts[site] for site in sites}
    return train_centrally(
        bench.config, cohorts, tasks, who=who, rounds=rounds, device=bench.device, start=start
    )


def _test(bench: Bench, outcome: Outcome, trained: Trained, site: str, tasks: list[str]) -> None:
    """Let a model predict a site's test images, and count the steps that saw the target."""
    for task in tasks:
        model = trained.model_of(task, bench.study.checkpoint)
        if bench.config.training.refit_heads:
            cohort = bench.cohorts[site]
            model = refit_heads(model, cohort, bench.config, [task], bench.device).final
        outcome.predict(bench, site, task, model)
        if task == bench.study.target:
            outcome.steps[site] = outcome.steps.get(site, 0) + trained.steps


ARMS: dict[str, Callable[[Bench], Outcome]] = {
    "constant": _constant,
    "metadata": _metadata,
    "probe": _probe,
    "local": _local,
    "finetune": _finetune,
    "average_init": _average_init,
    "pooled": _pooled,
    "federated": run_federated,
}
