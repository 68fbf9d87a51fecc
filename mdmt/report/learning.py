"""Learning curves: the validation of every round, with the best round marked."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mdmt.report.canvas import arm_colours, panel
from mdmt.report.page import Figure, Panel
from mdmt.report.words import metric_name
from mdmt.results.runs import Run
from mdmt.results.studies import Study
from mdmt.tasks import Task

History = Sequence[Mapping[str, Any]]
Curve = dict[int, list[float]]
"""Round → the metric of every cell in it."""


def run_learning(run: Run) -> list[Figure | str]:
    """Draw the validation curve of each task and site of a run."""
    checkpoints = run.metrics["checkpoints"] if run.metrics else {}
    spaces = {task: run.config.space(task) for task in run.config.tasks}
    kept = {task: checkpoints.get(f"best:{task}", {}).get("round") for task in spaces}
    caption = (
        "Validation of the federated backbone after each round; round 0 is before training. The"
        " circle marks the round kept as best for the task: by the mean over its sites, weighted by"
        " their validation images, of the rounds in which all of them reported."
    )
    history = run.history
    if run.config.privacy.secure_aggregation:  # only the means over all sites are known
        places = ({"all sites": {"validation": line["tasks"]}} for line in history)
        history = [line | {"sites": of} for line, of in zip(history, places, strict=True)]
    figures = _figures({"federated": [history]}, spaces, caption, kept) + _losses(run)
    if history and run.config.privacy.dp is not None:
        return ["With privacy.dp, sites withhold validation metrics: there are no curves."]
    return [*figures] or ["No round is finished yet."]


def _losses(run: Run) -> list[Figure]:
    """Draw the training loss of each task and site, where the sites report it."""
    found: dict[str, dict[str, dict[int, float]]] = defaultdict(lambda: defaultdict(dict))
    for line in run.history:
        for site, facts in sorted(line["sites"].items()):
            for task, loss in facts.get("losses", {}).items():
                if loss is not None:
                    found[task][site][line["round"]] = loss
    panels, names = list[Panel](), sorted({site for sites in found.values() for site in sites})
    colours = arm_colours([f"site {name}" for name in names])
    for task, sites in found.items():
        curves = {site: [*of.values()] for site, of in sites.items()}
        ends = [f"{site} from {of[0]:.3f} to {of[-1]:.3f}" for site, of in curves.items()]
        labels = task, "round", "training loss"
        with panel(panels, *labels, alt=f"Training loss: {'; '.join(ends)}") as axes:
            for site, of in curves.items():
                axes.plot(list(sites[site]), of, color=colours[f"site {site}"], lw=2)
            axes.locator_params(axis="x", integer=True)
    legend = [(name, colours[f"site {name}"]) for name in names]
    caption = "Training loss of each task, as the sites report it: a mean over the round."
    return [Figure(caption, panels, legend)] if panels else []


def study_learning(study: Study) -> list[Figure]:
    """Draw the validation curves of every arm that learns in rounds: a panel per task and site."""
    histories: dict[str, list[History]] = {arm: [] for arm in study.arms}
    for (arm, _), cell in study.cells.items():
        histories[arm].append(cell["history"])
    caption = (
        "Validation after each round: the mean of an arm's cells, between their lowest and highest"
        " value. The circle marks the best round of that mean."
    )
    return _figures(histories, study.spaces, caption)


def _figures(
    histories: Mapping[str, Sequence[History]],
    spaces: Mapping[str, Task],
    caption: str,
    kept: Mapping[str, int | None] | None = None,
) -> list[Figure]:
    """A figure of all tasks and sites, if there is one; `kept` are known best rounds by task."""
    colours, panels, drawn = arm_colours(histories), list[Panel](), set[str]()
    for task, space in spaces.items():
        by_site: dict[str, dict[str, Curve]] = defaultdict(dict)
        for arm, cells in histories.items():
            for site, curve in _curves(cells, task, space).items():
                by_site[site][arm] = curve
        limits = _limits(by_site.values())  # the same at all sites of a task
        for site, arms in sorted(by_site.items()):
            best = {arm: kept[task] if kept else _best(arms[arm], space) for arm in arms}
            _draw(panels, f"{task} at {site}", space, arms, colours, best, limits)
            drawn |= arms.keys()
    legend = [(arm, colours[arm]) for arm in histories if arm in drawn]
    return [Figure(caption, panels, legend)] if panels else []


def _curves(histories: Sequence[History], task: str, space: Task) -> dict[str, Curve]:
    """Primary metric of `task` by site and round."""
    found: dict[str, Curve] = defaultdict(lambda: defaultdict(list))
    for history in histories:
        for line in history:
            for site, facts in line["sites"].items():
                value = facts.get("validation", {}).get(f"{task}/{space.primary}")
                if value is not None:
                    found[site][line["round"]].append(value)
    return dict(sorted(found.items()))


def _limits(sites: Iterable[Mapping[str, Curve]]) -> tuple[float, float]:
    """Ends of the axis that holds all curves of a task, with room above for the best round."""
    values = [v for arms in sites for curve in arms.values() for of in curve.values() for v in of]
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.1 * (high - low) or 0.05
    return low - margin, high + 2 * margin


def _best(curve: Curve, space: Task) -> int | None:
    """The first of the best rounds, by the mean over cells."""
    sign = 1 if space.primary_is_better_when == "higher" else -1
    rounds = [number for number in sorted(curve) if number > 0]
    return max(rounds, key=lambda number: sign * float(np.mean(curve[number])), default=None)


def _draw(
    panels: list[Panel],
    where: str,
    space: Task,
    curves: Mapping[str, Curve],
    colours: Mapping[str, str],
    kept: Mapping[str, int | None],
    limits: tuple[float, float],
) -> None:
    name, words = metric_name(space.primary), []
    means = {
        arm: {number: float(np.mean(curve[number])) for number in sorted(curve)}
        for arm, curve in curves.items()
    }
    for arm, mean in means.items():
        first, *_, last = [*mean.values()] * 2
        best = "" if kept[arm] is None else f", best in round {kept[arm]}"
        words.append(f"{arm} from {first:.3f} to {last:.3f}{best}")
    title = f"{where} ({space.primary_is_better_when} is better)"
    alt = f"{name}: {'; '.join(words)}"
    with panel(panels, title, "round", f"{name}, validation", alt=alt) as axes:
        for arm, mean in means.items():
            values, colour = [curves[arm][number] for number in mean], colours[arm]
            axes.plot(list(mean), list(mean.values()), color=colour, linewidth=2)
            low, high = list(map(min, values)), list(map(max, values))
            axes.fill_between(list(mean), low, high, color=colour, alpha=0.18, lw=0)
            chosen = kept[arm]
            if chosen is not None and chosen in mean:
                axes.plot(chosen, mean[chosen], "o", color=colour, mfc="none", ms=9, mew=1.5)
                if len(means) == 1:
                    point, style = (chosen, mean[chosen]), "offset points"
                    axes.annotate(f"best: {chosen}", point, (0, 9), textcoords=style, ha="center")
        axes.set_ylim(*limits)
        axes.locator_params(axis="x", integer=True)
