"""The Flower ServerApp: registration, rounds, final test and release."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from mdmt.config import FederationConfig, find_config, load_federation
from mdmt.errors import BadInput, IncompleteError, MDMTError
from mdmt.memory import return_memory
from mdmt.untrusted import shown
from server.evaluation import final_test, references
from server.federation import begin, restore
from server.registration import register_sites
from server.release import write_release
from server.results import describe_missing
from server.rounds import run_rounds
from server.run import RunDirectory, new_run_folder
from server.sealed_grid import SealedGrid
from server.secure_rounds import form_cohort

_RUNS = Path("~/.local/state/mdmt/runs")
"""Default folder of runs of `flwr run`, whose working directory is a temporary one."""

log = logging.getLogger("flwr")  # `flwr run --stream` shows this log
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a federation from registration to release."""
    file = str(context.run_config["federation"])
    config = load_federation(
        find_config(file), shlex.split(str(context.run_config.get("overrides", "")))
    )
    out = str(context.run_config.get("out", ""))
    folder = Path(out) if out else new_run_folder(None, config.name, _RUNS.expanduser())
    expected = str(context.run_config.get("expected", "")).split()
    resume = bool(context.run_config.get("resume"))
    log.info("run directory: %s", folder)
    if not config.sites:  # sites of other machines: Flower keeps their replies in its database
        grid = SealedGrid(grid)
    with RunDirectory(folder, config) as run:
        if run.begun and not resume:
            raise BadInput(f"{folder}: has a run already; choose another out, or set resume=true")
        try:
            federate(grid, config, run, expected, resume=resume)
        except MDMTError as error:
            kind = "incomplete" if isinstance(error, IncompleteError) else "failed"
            run.event(kind, exit_code=error.exit_code, message=str(error))
            raise
        except (KeyboardInterrupt, SystemExit):  # Flower ends a ServerApp with these
            why = "the run was stopped, or its SuperLink ended; continue with --resume"
            run.event("failed", exit_code=1, message=why)
            raise
        except BaseException as error:
            run.event("failed", exit_code=1, message=shown(f"{type(error).__name__}: {error}"))
            raise
        run.event("done")


def federate(
    grid: Grid, config: FederationConfig, run: RunDirectory, expected: list[str], *, resume: bool
) -> None:
    """Run all steps of a federation."""
    run.event("registration", sites=expected or sorted(config.sites))
    registry = register_sites(grid, config, run.event, expected, run.former_cards())
    run.write_sites(config, registry.sites)
    federation = begin(config, registry)
    resumed = resume and run.begun
    if resumed:
        restore(federation, run)
    if config.privacy.secure_aggregation:
        form_cohort(grid, federation, run)
    if not resumed:
        federation.save(run)
    run_rounds(grid, federation, run, config.training.rounds)
    return_memory()  # the next steps read files
    checkpoints = final_test(grid, federation, run)
    references(grid, federation, run, checkpoints.values())
    sites = run.known_sites()
    metrics = federation.results.describe(checkpoints, config.references, sites)
    write_release(run, federation, sites, metrics)
    run.metrics(metrics)  # the last file: a run that has it is complete, or says what is missing
    if what := describe_missing(metrics):
        raise IncompleteError(f"{what}; start the site, then continue with --resume")
