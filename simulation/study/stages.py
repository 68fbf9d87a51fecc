"""The parts of a study, each a whole grid with its own folder and tables.

Most studies have one part. With `development`, the arm and the comparators are chosen on some folds
and confirmed on the others. With `train_fraction`, the grid is repeated with fewer patients.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mdmt.config import save_config
from mdmt.errors import RunError
from mdmt.files import read_json, write_json
from mdmt.results.gains import BEST
from mdmt.results.studies import fraction_folder
from simulation.study.config import StudyConfig
from simulation.study.data import StudyData
from simulation.study.folds import train_on_part

DEVELOPMENT = "development"
"""Folder of the development part; the confirmation is the study itself."""
CHOICE = "choice.json"
"""What was chosen on the development folds."""

Data = Mapping[int, StudyData]
"""By seed."""


@dataclass(frozen=True)
class Stage:
    """A grid of cells.

    Attributes
    ----------
    study : StudyConfig
        With the arms and seeds of this grid.
    out : Path
    data : mapping of int to StudyData
        With the folds of this grid.
    comparators : mapping of str to str
        Task → its comparator, if it was chosen before.
    notes : sequence of str
        For the caveats.
    """

    study: StudyConfig
    out: Path
    data: Data
    comparators: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


def stages(study: StudyConfig, out: Path, data: Data) -> Iterator[Stage]:
    """Yield the grids of a study, the study itself last.

    The next one is asked for when the tables of the one before are written.
    """
    if study.development or len(study.train_fraction) > 1:
        save_config(study, out / "study.yaml")  # the folder is this study's from now on
    if study.development:
        numbers = set(study.development)
        seeds = study.seeds[:1]
        first = study.model_copy(update={"seeds": seeds})
        chosen_on = {seed: _with_folds(data[seed], lambda n: n in numbers) for seed in seeds}
        yield Stage(first, out / DEVELOPMENT, chosen_on)
        choice = _choose(first, read_json(out / DEVELOPMENT / "statistics.json"))
        write_json(out / CHOICE, choice)
        kept = {choice["arm"], *study.comparators}
        arms = [a for a in study.arms if a.label in kept or a.kind in ("constant", "metadata")]
        confirmed_on = {s: _with_folds(one, lambda n: n not in numbers) for s, one in data.items()}
        folds = ", ".join(map(str, study.development))
        against = ", ".join(f"{arm} for {task}" for task, arm in choice["comparators"].items())
        note = f"{choice['arm']} was chosen on the development folds ({folds}), and as comparators"
        yield Stage(
            study.model_copy(update={"arms": tuple(arms)}),
            *(out, confirmed_on, choice["comparators"], [f"{note} {against}"]),
        )
        return
    for fraction in sorted(study.train_fraction):
        if fraction < 1:
            part = {
                seed: replace(
                    opened,
                    folds=[
                        train_on_part(fold, opened.sites, opened.manifests, fraction)
                        for fold in opened.folds
                    ],
                )
                for seed, opened in data.items()
            }
            yield Stage(study, fraction_folder(out, fraction), part)
    yield Stage(study, out, data)


def _with_folds(opened: StudyData, chosen: Callable[[int], bool]) -> StudyData:
    return replace(opened, folds=[f for number, f in enumerate(opened.folds) if chosen(number)])


def _choose(study: StudyConfig, statistics: Mapping[str, Any]) -> dict[str, Any]:
    """Choose each task's comparator, and the federated arm with the largest endpoint over them.

    Raises
    ------
    RunError
        No federated arm has an endpoint.
    """
    name = BEST if len(study.comparators) > 1 else study.comparators[0]
    candidates = [arm.label for arm in study.arms if arm.kind == "federated"]
    gains = {
        row["arm"]: {key: row[key] for key in ("gain", "low", "high")}
        for row in statistics["endpoint"]["rows"]
        if row["arm"] in candidates and row["comparator"] == name and row["gain"] is not None
    }
    if not gains:
        raise RunError("development: no federated arm has a gain for every target; none is chosen")
    return {
        "arm": max(gains, key=lambda arm: gains[arm]["gain"]),
        "comparators": {
            row["task"]: row["against"]
            for row in statistics["gains"]["rows"]
            if row["comparator"] == name
        },
        "endpoints": gains,
    }
