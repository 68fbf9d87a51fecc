"""The steps of a federation beside its rounds: its start, its final test, its references."""

from __future__ import annotations

import secrets
from typing import Any

import torch
from flwr.serverapp import Grid

from mdmt.config import FederationConfig
from mdmt.config.aggregation import FedAvg
from mdmt.errors import RunError
from mdmt.memory import keep_memory
from mdmt.messages import EvaluateReport
from mdmt.models import MDMTModel, build_model, get_arrays, received, trained, travelling
from server.federation import Arrays, Federation
from server.messaging import Conversation, converse_with_each
from server.rounds import evaluate_round, rounds_of
from server.run import RunDirectory
from server.selection import Selection
from server.site_registry import Roster
from server.weighting import loss_coefficients

__all__ = ["begin", "final_test", "references"]


def begin(config: FederationConfig, roster: Roster) -> Federation:
    """Build the initial backbone (and shared heads) that every site starts from."""
    keep_memory()
    torch.set_num_threads(config.training.threads)
    model = _initial_model(config)
    return Federation(
        config=config,
        roster=roster,
        recipe=config.recipe,
        run_id=secrets.token_hex(6),
        arm="federated",
        arrays=get_arrays(model, received(model, config.aggregation)),
        trained=trained(model, config.aggregation),
        travelling=frozenset(travelling(model, config.aggregation)),
        selection=Selection(config),
        coefficients=loss_coefficients(config, roster.sites),
    )


def _initial_model(config: FederationConfig) -> MDMTModel:
    """The same whenever it is asked for."""
    shared = tuple(config.tasks) if config.aggregation.heads == "shared" else ()
    return build_model(config, shared, weights=True)


def final_test(grid: Grid, federation: Federation, run: RunDirectory) -> dict[str, Any]:
    """Test the last backbone and each task's best one; the ``checkpoints`` of ``metrics.json``."""
    last = federation.config.training.rounds
    reports = {last: federation.last_reports}
    checkpoints = {"last": last}
    for task, best in federation.selection.best.items():
        checkpoints[f"best:{task}"] = best.round
        if best.round not in reports:
            arrays = federation.arrays_after(best.round, run)
            reports[best.round] = evaluate_round(grid, federation, run, best.round, arrays)
    return {
        name: {
            "round": number,
            "sites": {site: report.metrics for site, report in reports[number].items()},
        }
        for name, number in checkpoints.items()
    }


def references(grid: Grid, federation: Federation, run: RunDirectory) -> dict[str, Any]:
    """What the federation is compared with; the ``references`` of ``metrics.json``."""
    wanted = federation.config.references
    found: dict[str, Any] = {}
    if "constant" in wanted:
        found["constant"] = {
            "sites": {site: report.constant for site, report in federation.last_reports.items()}
        }
    if "local" in wanted:
        found["local"] = {"sites": _train_alone(grid, federation, run)}
    return found


def _train_alone(grid: Grid, federation: Federation, run: RunDirectory) -> dict[str, Any]:
    """Metrics of the sites after each has trained for itself, at its own pace."""
    names = {card.name: node for node, card in federation.roster.cards.items()}
    model = _initial_model(federation.config)
    start = get_arrays(model, received(model, federation.config.aggregation))
    results = converse_with_each(
        grid,
        {names[site]: _alone(grid, federation, names[site], start, run) for site in sorted(names)},
        federation.config.training.round_timeout,
    )
    metrics = {}
    for site in sorted(names):
        result = results[names[site]]
        if isinstance(result, RunError):  # must not take the federation's result with it
            run.event("refused", arm="local", site=site, reason=str(result))
        else:
            metrics[site] = result.metrics
    return metrics


def _alone(
    grid: Grid, federation: Federation, node: int, start: Arrays, run: RunDirectory
) -> Conversation[EvaluateReport]:
    """A federation of one site: same start, recipe, seeds and number of steps, but no averaging."""
    config = federation.config
    alone = config.model_copy(
        update={
            "aggregation": config.aggregation.model_copy(
                update={"strategy": FedAvg(), "fraction": 1.0, "min_sites": 1}
            )
        }
    )
    roster = federation.roster.alone(node)
    (site,) = roster.sites
    one = Federation(
        config=alone,
        roster=roster,
        recipe=federation.recipe,
        run_id=federation.run_id,
        arm="local",
        arrays=start,
        trained=federation.trained,
        travelling=federation.travelling,
        selection=Selection(alone),
        coefficients=loss_coefficients(alone, roster.sites),
    )
    yield from rounds_of(grid, one, run, federation.taken_part.get(site, 0))
    return one.last_reports[site]
