"""What `mdmt server run` does: submit a federation to the SuperLink and wait for its end."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from pathlib import Path

from mdmt.config import FederationConfig, save_config
from mdmt.deployment.kits import ServerKit, check_user
from mdmt.deployment.processes import is_running, last_error, only_one
from mdmt.errors import BadInput, RunError
from mdmt.files import read_json, write_json
from mdmt.results.runs import read_lines
from server.deployment.bundle import APP
from server.deployment.control import control, healthy, list_runs, save_log, stop_run
from server.flower import start_run
from server.run import last_event, raise_unless_done

_PAUSE = 0.5
_START = 600.0
"""Seconds that a ServerApp may take to begin: its machine may be slow to load torch."""
_CHECK = 10.0
"""Seconds between two questions to Flower about a run that writes no events."""
_OVER = ("done", "failed", "incomplete")
"""The last event of a ServerApp."""


def submitting(kit: ServerKit) -> AbstractContextManager[None]:
    """Allow only one submission to this server at a time: submissions share a file in the kit.

    Raises
    ------
    BadInput
        The server runs as another user.
    StateError
        Somebody else submits now.
    """
    check_user(kit)
    return only_one(kit.folder / "submit.lock", f"mdmt server run with the kit {kit.folder}")


def make_ready(kit: ServerKit, config: FederationConfig, resumed: Path | None) -> str | None:
    """Check that a federation can be submitted, before anything is written for it.

    Parameters
    ----------
    kit : ServerKit
    config : FederationConfig
    resumed : Path or None
        Directory of the run to resume. If its ServerApp was killed, the rest of it is stopped.

    Returns
    -------
    str or None
        Flower's id of the run in `resumed` if it is running: there is nothing to submit.

    Raises
    ------
    BadInput
        The configuration is not this kit's federation.
    RunError
        There is no SuperLink, no site is admitted, or another run is active.
    """
    if config.name != kit.facts.federation:
        raise BadInput(
            f"{config.name}: this kit serves the federation {kit.facts.federation};"
            " give another --kit, or provision one"
        )
    if not healthy(kit):
        raise RunError(f"no SuperLink is running: start it with mdmt server start {kit.folder}")
    if not kit.admitted:
        raise RunError(
            f"no site is admitted: run mdmt server admit NAME.request --kit {kit.folder} for each"
        )
    for run in (run.id for run in list_runs(kit) if not run.finished):
        folder, earlier = _submitted(kit).get(run, ("", 0))
        if folder != str(resumed):
            # A site answers one message at a time: two runs would only delay each other.
            raise RunError(
                f"run {run} is running: see mdmt server status {kit.folder}, or end it with"
                f" mdmt server stop {kit.folder}"
            )
        event = last_event(Path(folder), earlier)
        # A run without an event has not begun yet. Flower notices a dead ServerApp after a minute.
        if not event or (event["event"] not in _OVER and is_running(event["process"])):
            return run
        stop_run(kit, run)
    return None


def submit(kit: ServerKit, config: FederationConfig, folder: Path, *, resume: bool) -> str:
    """Submit a federation that `make_ready` has checked; return Flower's id of the run.

    Parameters
    ----------
    kit : ServerKit
    config : FederationConfig
    folder : Path
        The run directory.
    resume : bool
        Continue after the last complete round of the run in `folder`.

    Raises
    ------
    RunError
        Flower did not accept it.
    """
    # A resumed run may have been given more time, or a smaller quorum.
    save_config(config, folder / "federation.yaml")
    earlier = len(read_lines(folder / "events.jsonl"))
    values = {"federation": folder / "federation.yaml", "out": folder, "resume": resume}
    with control(kit) as ask:
        run = start_run(ask, APP, values | {"expected": " ".join(kit.admitted)})
    write_json(kit.submissions, _submitted(kit) | {run: (str(folder), earlier)})
    return run


def follow_run(kit: ServerKit, run: str) -> None:
    """Wait for the end of a run that was submitted as `run`.

    Raises
    ------
    BadInput, RunError
        The error of the ServerApp; or the ServerApp ended without one, or does not begin.
    """
    name, earlier = _submitted(kit)[run]
    folder = Path(name)
    next_check, give_up = time.monotonic() + _CHECK, time.monotonic() + _START
    while (event := last_event(folder, earlier)).get("event") not in _OVER:
        process = event.get("process")  # the ServerApp's, on the machine of its SuperLink
        status, died = "", process is not None and not is_running(process)
        if not died and time.monotonic() > next_check:
            next_check = time.monotonic() + _CHECK
            status = _final_status(kit, run)
        if (died or status) and last_event(folder, earlier) == event:
            raise RunError(_explain_end(kit, run, folder, status))
        if not event and time.monotonic() > give_up:
            raise RunError(
                f"the run in {folder} has not begun after {_START / 60:.0f} minutes; see"
                f" {kit.run_folder / 'superlink.log'}; mdmt server stop {kit.folder} ends it"
            )
        time.sleep(_PAUSE)
    raise_unless_done(event, f"the run in {folder} failed")


def describe_run(kit: ServerKit, run: str) -> tuple[str, str]:
    """Return the progress and the directory of a run; both are empty for another kit's run."""
    submitted = _submitted(kit)
    if run not in submitted:
        return "", ""
    folder, begin = submitted[run]
    later = [first for of, first in submitted.values() if of == folder and first > begin]
    try:
        events = read_lines(Path(folder) / "events.jsonl")[begin : min(later, default=None)]
    except BadInput:
        return "its events are damaged", folder
    rounds = [e for e in events if e["event"] == "round"]
    return (f"{rounds[-1]['round']} of {rounds[-1]['rounds']}" if rounds else "none yet"), folder


def _submitted(kit: ServerKit) -> dict[str, tuple[str, int]]:
    """Flower's run id → run directory, and how many events it had before."""
    return read_json(kit.submissions) if kit.submissions.exists() else {}


def _final_status(kit: ServerKit, run: str) -> str:
    """Return Flower's status of a finished run; empty if it continues or no SuperLink answers."""
    try:
        return next((f.status for f in list_runs(kit) if f.id == run and f.finished), "")
    except RunError:
        return ""


def _explain_end(kit: ServerKit, run: str, folder: Path, status: str) -> str:
    """Explain why a run ended whose ServerApp wrote no last event."""
    if status == "finished:stopped":
        return f"the run in {folder} was stopped; continue with --resume"
    why, log = "", kit.run_folder / "superlink.log"
    if status:  # the ServerApp may have had no folder to write its error to
        log = kit.run_folder / "serverapp.log"
        save_log(kit, run, log)
        why = f": {last_error(log)}"
    return f"the run in {folder} failed{why}; see {log}, then continue with --resume"
