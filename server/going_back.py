"""Go back to an earlier round of a run, such as the last one before the model became bad."""

from __future__ import annotations

from pathlib import Path

from mdmt.checkpoints import RoundFiles
from mdmt.config import FederationConfig
from mdmt.errors import BadInput, DamagedError


def go_back(folder: Path, config: FederationConfig, number: int) -> None:
    """Delete the checkpoints after round `number`, so that `--resume` continues after it.

    The server keeps the last two rounds and the best round of each task. A site keeps its memory of
    the same rounds, because each order names them.

    Parameters
    ----------
    folder : Path
        Directory of a run that does not go on now.
    config : FederationConfig
    number : int

    Raises
    ------
    BadInput
        This round is not kept, or its checkpoint is damaged. The message lists the kept rounds.
    StateError
        The checkpoint belongs to another federation.
    """
    files = RoundFiles(folder / "checkpoints", {"federation": config.hash})
    kept = files.rounds()
    listed = f"kept are the rounds {', '.join(map(str, kept)) or 'none'}"
    if number not in kept:
        raise BadInput(f"--from-round {number}: {folder} does not keep this round; {listed}")
    try:
        files.load(number)
    except DamagedError as error:
        raise BadInput(f"--from-round {number}: {error}; {listed}") from error
    (folder / "metrics.json").unlink(missing_ok=True)  # of a final test that some site missed
    for later in reversed(kept):  # if this is interrupted, an ordinary resume finds a whole round
        if later > number:
            files.path(later).unlink()
