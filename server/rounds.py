"""The rounds of a federation, from the admission of sites to the checkpoint."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.serverapp import Grid

from mdmt.algorithms import State
from mdmt.blob import Arrays
from mdmt.errors import RunError
from mdmt.messages import Metrics, SiteCard
from mdmt.privacy.metric_sums import MetricSums
from mdmt.seeds import derive_seed
from mdmt.weighting import array_weights, loss_coefficients, site_weights
from mdmt.wire import Codec
from server.aggregation import weighted_mean
from server.collection import Collected, Sent, collect, send
from server.cosines import cosines
from server.evaluation import evaluate_round
from server.federation import Federation
from server.norm_bound import History, find_large, per_root_step, remember, shorten
from server.quorum import quorum
from server.run import RunDirectory
from server.secure_rounds import combine_masked, sum_metrics
from server.update_buffer import UpdateBuffer


def run_rounds(grid: Grid, federation: Federation, run: RunDirectory, rounds: int) -> None:
    """Train up to round `rounds`, then evaluate the final model.

    Every reply of round r also has the validation metrics of the model of round r-1. They complete
    the history line of round r-1.
    """
    codec = Codec(federation.config.wire)
    for number in range(federation.round + 1, rounds + 1):
        started = time.monotonic()
        run.event("round", round=number, rounds=rounds)
        admit(federation, run)
        sites = select(federation, number)
        with UpdateBuffer(run.folder) as buffer:
            sent = send(grid, federation, codec, number, sites)
            collected = collect(federation, run, codec, sent, buffer)
            norms = bound_updates(federation, run, number, collected)
            check_quorum(federation, number, collected)
            sums = None
            if federation.statements:
                state, sums = combine_masked(federation, map(buffer.take, collected.reports))
            else:
                state = combine(federation, codec, sent, collected, buffer)
        book(federation, run, {s: r.validation for s, r in collected.reports.items()}, sums)
        note_rounds(federation, run, collected)
        seconds = time.monotonic() - started
        federation.line = history_line(federation, number, sent, collected, seconds)
        if sums is not None:
            federation.line["clipped"] = sums.clipped
        federation.state, federation.round, federation.norms = state, number, norms
        federation.save(run)
    federation.registry.left.clear()  # the final test waits for every site
    reports = evaluate_round(grid, federation, run, rounds, federation.state)
    if not reports:
        reasons = "; ".join(f"{s}: {why}" for s, why in federation.results.reasons.items())
        raise RunError(f"no site could evaluate the model of round {rounds} ({reasons})")
    book(federation, run, {s: r.metrics["val"] for s, r in reports.items()})


def admit(federation: Federation, run: RunDirectory) -> None:
    """Register sites that have joined, and wait while too few sites are connected."""
    registry, before = federation.registry, set(federation.registry.sites)
    registry.register_joiners()
    if joined := set(registry.sites) - before:
        new = loss_coefficients(federation.config, registry.sites)
        federation.coefficients |= {
            site: new[site] for site in joined - set(federation.coefficients)
        }
        run.write_sites(federation.config, registry.sites)
    needed = len(federation.statements) or quorum(federation.config)[0]
    registry.wait(lambda connected: len(connected & set(registry.cards)) >= needed)


def select(federation: Federation, number: int) -> dict[int, SiteCard]:
    """Draw the sites of a round, by node. The seed depends on the round."""
    cards, options = federation.registry.cards, federation.config.aggregation
    nodes = sorted(cards, key=lambda node: cards[node].name)
    wanted = max(round(options.fraction * len(nodes)), quorum(federation.config)[0])
    rng = np.random.default_rng(derive_seed(federation.config.seed, "sites", number))
    drawn = rng.choice(len(nodes), size=min(wanted, len(nodes)), replace=False)
    return {nodes[i]: cards[nodes[i]] for i in sorted(drawn)}


def bound_updates(
    federation: Federation, run: RunDirectory, number: int, collected: Collected
) -> History:
    """Refuse or clip updates that are too large. Return the history of norms for the next round."""
    if federation.statements:  # the size of a masked update is not known
        return federation.norms
    config, sites = federation.config, federation.registry.sites
    scaled = per_root_step(config, sites, collected.norms)
    large = find_large(config, scaled, federation.state, federation.norms)
    clip = config.aggregation.on_large == "clip"
    for site, why in sorted(large.reasons.items()):
        if clip:
            collected.factors[site] = large.factors[site]
            run.event("notice", round=number, message=f"{site}, round {number}: {why}; clipped")
        else:
            collected.refusals[site] = why
            del collected.reports[site]
    return remember(federation.norms, scaled, large, clip=clip)


def check_quorum(federation: Federation, number: int, collected: Collected) -> None:
    """Raise an error if too few updates were accepted.

    Raises
    ------
    RunError
        There are fewer than the `quorum`, or a site is missing with `on_missing: stop` or with
        secure aggregation.
    """
    options, accepted = federation.config.aggregation, len(collected.reports)
    # With secure aggregation a site that did not come back before a resumed run is missing, too.
    away = dict.fromkeys(federation.statements.keys() - collected.reports.keys(), "not connected")
    missing = sorted((away | collected.refusals).items())
    reasons = "; ".join(f"{site}: {why}" for site, why in missing)
    if away:
        raise RunError(
            f"round {number} stopped: secure aggregation needs the update of every site"
            f" ({reasons}); continue with --resume when all can answer"
        )
    needed, why = quorum(federation.config)
    if accepted < needed:
        raise RunError(
            f"round {number}: {accepted} updates could be used,"
            f" {needed} are needed ({reasons or why})"
        )
    if reasons and options.on_missing == "stop":
        raise RunError(f"round {number} stopped, as aggregation.on_missing says ({reasons})")


def combine(
    federation: Federation,
    codec: Codec,
    sent: Sent,
    collected: Collected,
    buffer: UpdateBuffer,
) -> State:
    """Let the algorithm compute the next state from the accepted updates, in order of site names.

    The weight of a site depends on the accepted sites. Therefore the updates wait in the buffer
    until the last one has arrived. For a sum, one decoded update at a time is in memory.
    """
    cards = [federation.registry.sites[site] for site in sorted(collected.reports)]
    weights = array_weights(federation.config, cards, federation.uploaded)
    algorithm = federation.config.algorithm

    def update(site: str) -> Arrays:
        arrays, factors = sent.arrays[site], collected.factors.get(site)
        found = codec.decode_upload(buffer.take(site), arrays)
        return shorten(found, arrays, factors, federation.state.optimised) if factors else found

    if algorithm.needs == "updates":
        return algorithm.combine_each(federation.state, {s: update(s) for s in weights}, weights)
    mean = weighted_mean((update(site), weights[site]) for site in weights)
    return algorithm.combine(federation.state, mean)


def book(
    federation: Federation,
    run: RunDirectory,
    validation: Mapping[str, Metrics],
    sums: MetricSums | None = None,
) -> None:
    """Complete the history line of the last round with the validation metrics of its model.

    With secure aggregation only their `sums` are known, except of the last model. All models are
    then compared by sums.
    """
    line = federation.line
    if federation.statements:
        sums = sums or sum_metrics(federation, validation)
        federation.selection.book_sums(line["round"], sums.means, sums.supports)
        tasks, validation = sums.means, {s: m for s, m in validation.items() if m}
    else:
        expected = federation.registry.validators()
        tasks = federation.selection.book(line["round"], validation, expected)
    for site, metrics in validation.items():
        line["sites"].setdefault(site, {})["validation"] = metrics
    run.history(line | {"tasks": tasks})
    run.event("booked", round=line["round"], tasks=tasks, refusals=line["refusals"])


def note_rounds(federation: Federation, run: RunDirectory, collected: Collected) -> None:
    """Count the rounds of each site, and report a site that lost its memory."""
    for site, report in collected.reports.items():
        rounds = federation.rounds_of.get(site, 0)
        if rounds and report.new_memory:
            message = f"{site} kept nothing of the {rounds} rounds it trained: its heads are new"
            run.event("notice", round=report.round, message=message)
        federation.rounds_of[site] = rounds + 1


def history_line(
    federation: Federation, number: int, sent: Sent, collected: Collected, seconds: float
) -> dict[str, Any]:
    """Return the history line of a round. The next round adds the validation of its model."""
    cards = [federation.registry.sites[site] for site in sorted(collected.reports)]
    weights = site_weights(federation.config, cards)
    sites: dict[str, dict[str, Any]] = {
        site: {"bytes_down": size} for site, size in sent.bytes.items()
    }
    for site, report in collected.reports.items():
        sites[site] |= {
            "weight": weights[site],
            "images": report.images,
            "steps": report.steps,
            "seconds": round(report.seconds, 3),
            "losses": report.losses,
            "bytes_up": collected.bytes[site],
            "norms": {key: float(f"{n:.6g}") for key, n in collected.norms[site].items()},
        }
        if site in collected.factors:
            sites[site]["clipped"] = collected.factors[site]
    line = {
        "round": number,
        "sites": sites,
        "refusals": collected.refusals,
        "seconds": round(seconds, 3),
    }
    accepted = {s: of for s, of in collected.directions.items() if s in collected.reports}
    if len(accepted) > 1:
        line["cosines"] = cosines(accepted)
    return line
