"""The answer of a run in plain words: if it helped, whom, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from mdmt.enough import FEWEST_OF_A_CLASS
from mdmt.report.page import Forest, ForestRow
from mdmt.report.words import measure, task_title
from mdmt.results.runs import Run, format_metric, shown_reference
from mdmt.results.verdicts import NOTHING_SHOWN, Gain

_WORDS = {
    "local": "training alone",
    "probe": "the untrained network with a linear head of the site",
    "constant": "one constant guess for everybody",
}


class Place(NamedTuple):
    """A task at a site, and what the released model gained there over each reference."""

    task: str
    site: str
    gains: dict[str, Gain]


def places(run: Run) -> list[Place]:
    """Return the sites that test each task, in the order of the configuration and by name."""
    return [
        Place(task, site, run.gains(task, site))
        for task in run.config.tasks
        for site, _ in run.tests(task)
    ]


def run_answer(run: Run) -> Iterator[str]:
    """Yield sentences: the verdict, the numbers of each place, the baselines, and how sure it is.

    Better and worse are said only where the interval of the difference excludes 0.
    """
    found = places(run)
    if not found:
        return
    alone = [place for place in found if "local" in place.gains]
    yield _verdict(run, alone)
    for place in found:
        yield _numbers(run, place)
    for reference in ("probe", "constant"):
        at = [
            _name(run, p)
            for p in found
            if reference in p.gains and p.gains[reference].verdict != "better"
        ]
        if at and reference == "probe":
            shown = "as far as these patients show"
            yield f"Training did not beat the untrained network, {shown}: {', '.join(at)}."
        elif at:
            yield f"Not shown to be better than {_WORDS[reference]}: {', '.join(at)}."
    yield _certainty(run, found)


def _verdict(run: Run, alone: list[Place]) -> str:
    """Compare the released model with training alone, over all places."""
    if not alone:
        return (
            "Whether the federation helped cannot be said: no site trained alone for comparison"
            " (`references` in the configuration)."
        )
    by = {"better": list[str](), "worse": list[str](), NOTHING_SHOWN: list[str]()}
    for place in alone:
        by[place.gains["local"].verdict].append(_name(run, place))
    better, worse, other = (", ".join(by[verdict]) for verdict in by)
    rest = f" No difference is shown for {other}." if other else ""
    if better and worse:
        return f"It depends. Better than training alone: {better}. Worse: {worse}.{rest}"
    if better:
        word = "Yes, for a part" if other else "Yes"
        return f"{word}. Better than training alone: {better}.{rest}"
    if worse:
        return f"No. Worse than training alone: {worse}.{rest}"
    return (
        "Not shown. Nowhere is the difference between the federation and training alone larger"
        " than what chance explains."
    )


def _numbers(run: Run, place: Place) -> str:
    space = run.config.space(place.task)
    key, tests = f"{place.task}/{space.primary}", dict(run.tests(place.task))[place.site]
    label = "best" if run.released(place.task) != "last" else "last"
    model = next((t for n, t in tests.items() if n.startswith(f"federated, {label}")), None)
    text = f"{_name(run, place)}: {measure(space, space.primary)}"
    text += f" {format_metric(model or {}, key)} with the federation"
    gain, local = place.gains.get("local"), tests.get("local only")
    if gain is None:
        return f"{text}."
    return f"{text}, {format_metric(local or {}, key)} alone (difference {gain.describe()})."


def _certainty(run: Run, found: list[Place]) -> str:
    without = [
        _name(run, place)
        for place in found
        if place.gains and all(gain.low is None for gain in place.gains.values())
    ]
    text = (
        "How sure: brackets hold 95 % intervals over the test patients of a site. They do not say"
        " how another training run would do, or how the model does at other hospitals."
    )
    if without:
        text += (
            f" No interval of the difference is known for {', '.join(without)}: it needs"
            f" {FEWEST_OF_A_CLASS} test patients of each class, or the run is an older one."
        )
    return text


def _name(run: Run, place: Place) -> str:
    return f"{task_title(run.config, place.task)} at {place.site}"


def gain_charts(run: Run) -> list[Forest]:
    """Chart the gain of every place over every reference, one chart for each metric and unit."""
    charts: dict[str, list[ForestRow]] = {}
    for place in places(run):
        space = run.config.space(place.task)
        sign = 1 if space.primary_is_better_when == "higher" else -1
        for name, gain in reversed(place.gains.items()):
            if gain.value is None:
                continue
            ends = [None if end is None else sign * end for end in (gain.low, gain.high)][::sign]
            label = f"{_name(run, place)}, against {shown_reference(name)}"
            row = ForestRow(label, sign * gain.value, ends[0], ends[1], gain.verdict)
            charts.setdefault(measure(space, space.primary), []).append(row)
    note = (
        "Right of the line the released model is better than the reference, on the same test"
        " patients. A filled dot is a difference that its 95 % interval shows; a hollow dot is a"
        " difference that is not shown."
    )
    last = list(charts)[-1:]
    return [
        Forest(f"Gain in {name}", rows, note if [name] == last else "")
        for name, rows in charts.items()
    ]
