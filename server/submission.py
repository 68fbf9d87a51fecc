"""What `mdmt server run` does: submit a federation to the SuperLink and follow it to its end."""

from __future__ import annotations

import time
from pathlib import Path

from mdmt.config import FederationConfig, save_config
from mdmt.errors import BadInput, RunError
from mdmt.files import read_json, write_json
from mdmt.kits import ServerKit, check_user
from mdmt.processes import is_running, last_words
from mdmt.runs import read_lines
from server.bundle import write_app, write_run_config
from server.control import healthy, list_runs, save_log, start_run, stop_run
from server.run import last_event, raise_unless_done

__all__ = ["describe_run", "follow_run", "make_ready", "submit"]

_PAUSE = 0.5
_CHECK = 10.0
"""Seconds between two looks at what Flower says of a run that tells nothing."""


def make_ready(kit: ServerKit, config: FederationConfig, resumed: Path | None) -> None:
    """Make sure that a federation can be submitted, before anything is written for it.

    Parameters
    ----------
    kit : ServerKit
    config : FederationConfig
    resumed : Path or None
        Directory of the run that is to go on; what is left of it is stopped.

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
    submitted = _submitted(kit)
    _make_way(kit, {run for run, of in submitted.items() if of == str(resumed)})


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
    if not resume:
        save_config(config, folder / "federation.yaml")
    write_app(kit.run_folder / "app")
    write_run_config(
        kit.run_folder / "run.toml",
        federation=folder / "federation.yaml",
        out=folder,
        resume=resume,
        expected=" ".join(kit.facts.sites),
    )
    run = start_run(kit, kit.run_folder / "app", kit.run_folder / "run.toml")
    write_json(kit.submissions, _submitted(kit) | {run: str(folder)})
    return run


def follow_run(kit: ServerKit, run: str, folder: Path, earlier: int) -> None:
    """Wait for the end of a run.

    Parameters
    ----------
    kit : ServerKit
    run : str
        Its id.
    folder : Path
        Its directory.
    earlier : int
        How many events it had before it was submitted.

    Raises
    ------
    BadInput, RunError
        What the ServerApp raised, or that it broke off.
    """
    next_check = time.monotonic() + _CHECK
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
        time.sleep(_PAUSE)


def describe_run(kit: ServerKit, run: str) -> tuple[str, str]:
    """Say how far a run is, and where its directory is, if this kit submitted it."""
    folder = _submitted(kit).get(run)
    if folder is None:
        return "", ""
    events = read_lines(Path(folder) / "events.jsonl")
    rounds = [event for event in events if event["event"] == "round"]
    reached = f"{rounds[-1]['round']} of {rounds[-1]['rounds']}" if rounds else "none yet"
    return reached, folder


def _submitted(kit: ServerKit) -> dict[str, str]:
    """Run directories by Flower's run id."""
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


def _make_way(kit: ServerKit, former: set[str]) -> None:
    """Stop what is left of `former` runs; refuse to run beside anything else.

    Sites answer one message at a time, so two runs would only delay each other.
    """
    active = [run.id for run in list_runs(kit) if not run.finished]
    if strangers := set(active) - former:
        raise RunError(
            f"run {min(strangers)} is under way: see mdmt server status {kit.folder}, or end it"
            f" with mdmt server stop {kit.folder}"
        )
    for run in active:
        stop_run(kit, run)
