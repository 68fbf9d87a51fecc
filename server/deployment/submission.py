"""What `mdmt server run` does: submit a federation to the SuperLink and follow it to its end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mdmt.config import FederationConfig, save_config
from mdmt.deployment.kits import ServerKit, check_user
from mdmt.deployment.processes import is_running, last_words
from mdmt.errors import BadInput, RunError
from mdmt.files import read_json, write_json
from mdmt.results.runs import read_lines
from server.deployment.bundle import write_app, write_run_config
from server.deployment.control import healthy, list_runs, save_log, start_run, stop_run
from server.run import last_event, raise_unless_done

__all__ = ["describe_run", "follow_run", "make_ready", "submit"]

_PAUSE = 0.5
_START = 600.0
"""Seconds a ServerApp may take to begin: its machine may be slow to load torch."""
_CHECK = 10.0
"""Seconds between two looks at what Flower says of a run that tells nothing."""


def make_ready(kit: ServerKit, config: FederationConfig, resumed: Path | None) -> str | None:
    """Make sure that a federation can be submitted, before anything is written for it.

    Parameters
    ----------
    kit : ServerKit
    config : FederationConfig
    resumed : Path or None
        Directory of the run that is to go on; what is left of it, if it was killed, is stopped.

    Returns
    -------
    str or None
        Flower's id of the run in `resumed` if it is under way: there is nothing to submit.

    Raises
    ------
    BadInput
        The configuration is not this kit's federation.
    RunError
        There is no SuperLink, or another run is under way.
    """
    check_user(kit)
    if config.name != kit.facts.federation:
        raise BadInput(
            f"{config.name}: this kit serves the federation {kit.facts.federation};"
            " give another --kit, or provision one"
        )
    if not healthy(kit):
        raise RunError(f"no SuperLink is running: start it with mdmt server start {kit.folder}")
    for run in (run.id for run in list_runs(kit) if not run.finished):
        folder, earlier = _submitted(kit).get(run, ("", 0))
        if folder != str(resumed):
            # Sites answer one message at a time: two runs would only delay each other.
            raise RunError(
                f"run {run} is under way: see mdmt server status {kit.folder}, or end it with"
                f" mdmt server stop {kit.folder}"
            )
        if _is_alive(last_event(Path(folder), earlier)):
            return run
        stop_run(kit, run)
    return None


def _is_alive(event: Mapping[str, Any]) -> bool:
    """Whether a run goes on, by its last event; Flower notices after a minute that one does not.

    A run without an event has not begun yet.
    """
    over = event.get("event") in ("done", "failed")
    return not event or (not over and is_running(event["process"]))


def submit(kit: ServerKit, config: FederationConfig, folder: Path, *, resume: bool) -> str:
    """Submit a federation that `make_ready` let pass; give the id Flower runs it under.

    Parameters
    ----------
    kit : ServerKit
    config : FederationConfig
    folder : Path
        The run directory.
    resume : bool
        Go on after the last complete round of the run in `folder`.

    Raises
    ------
    RunError
        It was not accepted.
    """
    # A run that goes on may have been given more time, or a smaller quorum.
    save_config(config, folder / "federation.yaml")
    earlier = len(read_lines(folder / "events.jsonl"))
    write_app(kit.run_folder / "app")
    write_run_config(
        kit.run_folder / "run.toml",
        federation=folder / "federation.yaml",
        out=folder,
        resume=resume,
        expected=" ".join(kit.facts.sites),
    )
    run = start_run(kit, kit.run_folder / "app", kit.run_folder / "run.toml")
    write_json(kit.submissions, _submitted(kit) | {run: (str(folder), earlier)})
    return run


def follow_run(kit: ServerKit, run: str) -> None:
    """Wait for the end of a run.

    Parameters
    ----------
    kit : ServerKit
    run : str
        The id that it was submitted under.

    Raises
    ------
    BadInput, RunError
        What the ServerApp raised, that it broke off, or that it does not begin.
    """
    name, earlier = _submitted(kit)[run]
    folder = Path(name)
    next_check, give_up = time.monotonic() + _CHECK, time.monotonic() + _START
    while True:
        event = last_event(folder, earlier)
        if event.get("event") in ("done", "failed"):
            return raise_unless_done(event, f"the run in {folder} broke off")
        process = event.get("process")  # the ServerApp's, which runs where its SuperLink does
        status, died = "", process is not None and not is_running(process)
        if not died and time.monotonic() > next_check:
            next_check = time.monotonic() + _CHECK
            status = _final_status(kit, run)
        if (died or status) and last_event(folder, earlier) == event:
            raise RunError(_broke_off(kit, run, folder, status))
        if not event and time.monotonic() > give_up:
            raise RunError(
                f"the run in {folder} has not begun after {_START / 60:.0f} minutes; see"
                f" {kit.run_folder / 'superlink.log'}; mdmt server stop {kit.folder} ends it"
            )
        time.sleep(_PAUSE)


def describe_run(kit: ServerKit, run: str) -> tuple[str, str]:
    """Say how far a run is, and where its directory is, if this kit submitted it."""
    submitted = _submitted(kit)
    if run not in submitted:
        return "", ""
    folder, begin = submitted[run]
    later = [first for of, first in submitted.values() if of == folder and first > begin]
    try:
        events = read_lines(Path(folder) / "events.jsonl")[begin : min(later, default=None)]
    except BadInput:
        return "its events are damaged", folder
    rounds = [e for e in events if e["event"] == "round" and e["arm"] == "federated"]
    reached = f"{rounds[-1]['round']} of {rounds[-1]['rounds']}" if rounds else "none yet"
    return reached, folder


def _submitted(kit: ServerKit) -> dict[str, tuple[str, int]]:
    """Run directory, and how many events it had before, by Flower's run id."""
    return read_json(kit.submissions) if kit.submissions.exists() else {}


def _final_status(kit: ServerKit, run: str) -> str:
    """How Flower says that a run ended; while no SuperLink answers, it may come back."""
    try:
        return next((f.status for f in list_runs(kit) if f.id == run and f.finished), "")
    except RunError:
        return ""


def _broke_off(kit: ServerKit, run: str, folder: Path, status: str) -> str:
    """Say why a run ended whose ServerApp did not say so itself."""
    if status == "finished:stopped":
        return f"the run in {folder} was stopped; go on with --resume"
    why, log = "", kit.run_folder / "superlink.log"
    if status:  # it may have had no folder to tell why
        log = kit.run_folder / "serverapp.log"
        save_log(kit, run, log)
        why = f": {last_words(log)}"
    return f"the run in {folder} broke off{why}; see {log}, then go on with --resume"
