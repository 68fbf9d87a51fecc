"""Learning curves: the validation of every round, the best round marked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mdmt.report.canvas import BLACK, arm_colours
from mdmt.report.page import Block, Figure, Panel, Paragraph
from mdmt.report.plots import Line, plot_lines
from mdmt.report.words import metric_name
from mdmt.results.runs import Run
from mdmt.results.studies import Study
from mdmt.tasks import Task

__all__ = ["run_learning", "study_learning"]

History = Sequence[Mapping[str, Any]]
Points = list[tuple[int, float]]

_COLOUR = arm_colours(["federated"])["federated"]


def run_learning(run: Run) -> list[Block]:
    """Draw the validation curve of each task and site of a run."""
    panels = [
        _run_panel(task, site, run.config.space(task), points, best)
        for task in run.config.tasks
        for best in (_best_round(run, task),)
        for site, points in _curves(run.history, task, run.config.space(task))
    ]
    if not panels:
        return [Paragraph("No round has been booked yet.")]
    caption = (
        "Validation of the federated backbone after each round; round 0 is before training. The"
        " circle marks the round kept as best for the task, chosen by the mean over its sites"
        " weighted by their validation images."
    )
    return [Figure(caption, panels)]


def study_learning(study: Study) -> list[Block]:
    """Draw the validation curves of every arm that learns in rounds: a panel per task and site."""
    colours = arm_colours(study.arms)
    histories: dict[str, list[History]] = {arm: [] for arm in study.arms}
    for (arm, _), cell in study.cells.items():
        histories[arm].append(cell["history"])
    panels, drawn = [], set()
    for task, space in study.spaces.items():
        together: dict[str, dict[str, list[Points]]] = {}
        for arm, cells in histories.items():
            for history in cells:
                for site, points in _curves(history, task, space):
                    together.setdefault(site, {}).setdefault(arm, []).append(points)
        for site, arms in sorted(together.items()):
            panels.append(_study_panel(task, site, space, arms, colours))
            drawn |= set(arms)
    if not panels:
        return []
    caption = (
        "Validation after each round: the mean of an arm's cells, between their lowest and highest"
        " value. The circle marks the best round of that mean."
    )
    return [Figure(caption, panels, [(arm, colours[arm]) for arm in study.arms if arm in drawn])]


def _study_panel(
    task: str,
    site: str,
    space: Task,
    arms: Mapping[str, Sequence[Points]],
    colours: Mapping[str, str],
) -> Panel:
    lines, marks, words = [], [], []
    for arm, curves in arms.items():
        by_round: dict[int, list[float]] = {}
        for points in curves:
            for number, value in points:
                by_round.setdefault(number, []).append(value)
        rounds = sorted(by_round)
        means = [float(np.mean(by_round[number])) for number in rounds]
        low, high = (np.array([end(by_round[n]) for n in rounds]) for end in (min, max))
        lines.append(Line(rounds, means, colours[arm], low=low, high=high))
        best = _best([(n, mean) for n, mean in zip(rounds, means, strict=True) if n > 0], space)
        if best is not None:
            marks.append((best, means[rounds.index(best)], "", colours[arm]))
        words.append(f"{arm} from {means[0]:.3f} to {means[-1]:.3f}, best in round {best}")
    name = metric_name(space.primary)
    svg = plot_lines(lines, "round", f"{name}, validation", marks=marks, whole_x=True)
    title = f"{task} at {site} ({space.primary_is_better_when} is better)"
    return Panel(title, svg, f"{name}: {'; '.join(words)}")


def _curves(history: History, task: str, space: Task) -> Iterator[tuple[str, Points]]:
    """Yield the sites that validate `task`, with the primary metric by round."""
    key = f"{task}/{space.primary}"
    for site in sorted({site for line in history for site in line["sites"]}):
        points = [
            (line["round"], value)
            for line in history
            if (value := line["sites"].get(site, {}).get("validation", {}).get(key)) is not None
        ]
        if points:
            yield site, points


def _best_round(run: Run, task: str) -> int | None:
    best = run.metrics["checkpoints"].get(f"best:{task}") if run.metrics else None
    return best["round"] if best else _best_booked(run.history, task, run.config.space(task))


def _best_booked(history: History, task: str, space: Task) -> int | None:
    key = f"{task}/{space.primary}"
    points = [(line["round"], line["tasks"].get(key)) for line in history if line["round"] > 0]
    return _best([(number, value) for number, value in points if value is not None], space)


def _best(points: Points, space: Task) -> int | None:
    """The first of the best rounds, as `server.selection` keeps it."""
    sign = 1 if space.primary_is_better_when == "higher" else -1
    return max(points, key=lambda point: (sign * point[1], -point[0]))[0] if points else None


def _run_panel(task: str, site: str, space: Task, points: Points, best: int | None) -> Panel:
    name = metric_name(space.primary)
    marks = [(x, y, f"best: {x}", BLACK) for x, y in points if x == best]
    (first, start), (last, end) = points[0], points[-1]
    alt = f"{name} from {start:.3f} in round {first} to {end:.3f} in round {last}" + (
        f"; best round {best}" if marks else ""
    )
    lines = [Line([x for x, _ in points], [y for _, y in points], _COLOUR)]
    svg = plot_lines(lines, "round", f"{name}, validation", marks=marks, whole_x=True)
    return Panel(f"{task} at {site} ({space.primary_is_better_when} is better)", svg, alt)
