"""Results of a run on the test sets: every model at every site, and each finding or zone."""

from collections.abc import Iterator
from typing import Any

from mdmt.report.canvas import Estimate, arm_colours, name_rows, panel
from mdmt.report.figures import draw_bars
from mdmt.report.page import Block, Figure, Panel, Table
from mdmt.report.words import count, measure, reported, signed, task_title
from mdmt.results.runs import Run, format_metric, shown_reference
from mdmt.tasks import Task

Tests = dict[str, dict[str, Any] | None]
"""Model → its test metrics at one site, as `Run.tests` gives them."""

_READING = (
    "Unit of analysis: the test patient. Square brackets hold 95 % intervals of the patient-level"
    " bootstrap; they tell how well this model is measured, not how another training run would do."
    " Round brackets hold the round. The last rows of a table compare the released model with the"
    " references on the same patients: it is called better or worse only if the interval of the"
    " difference excludes 0. There is no interval for fewer than 10 patients of a class."
)


def result_blocks(run: Run) -> Iterator[Block]:
    """Yield how to read the results, then the tables and plots of each task and site."""
    for number, task in enumerate(run.config.tasks):
        for first, (site, tests) in enumerate(run.tests(task)):
            if number == first == 0:
                yield _READING
            where = f"{task_title(run.config, task)} at {site}"
            yield result_table(run, task, site, tests)
            yield from _output_tables(run.config.space(task), task, where, tests)
            yield from _result_plots(run, task, where, tests)


def final_test(tests: Tests) -> dict[str, Any]:
    """Return the test metrics of the federated model that is known at a site."""
    return next(test for name, test in tests.items() if test and name.startswith("federated"))


def result_table(run: Run, task: str, site: str, tests: Tests) -> Table:
    """A row per model at one site, a column per shown metric of a task."""
    final, released = final_test(tests), run.released(task).partition(":")[0]
    space = run.config.space(task)
    metrics = {
        f"{task}/{name}": f"{measure(space, name)}\n({better} is better)"
        for name, better in space.shown_metrics.items()
        if f"{task}/{name}" in final
    }
    rows = [
        [name, *(format_metric(test or {}, key) for key in metrics)] for name, test in tests.items()
    ]
    models = len(rows)
    subject = next((t for n, t in tests.items() if n.startswith(f"federated, {released}")), None)
    for name, found in run.gains(task, site).items():
        reference = tests.get(shown_reference(name)) or {}
        others = (
            _difference((subject or {}).get(key), reference.get(key)) for key in list(metrics)[1:]
        )
        rows.append([f"{released} vs. {shown_reference(name)}", found.describe("\n"), *others])
    people = final.get(f"{task}/patients")
    of = "" if people is None else f" of {count(people, 'patient')}"
    images = count(final[f"{task}/examples"], "test image")
    return Table(
        caption=f"{task_title(run.config, task)} at {site}: {images}{of}",
        header=["model", *metrics.values()],
        rows=rows,
        emphasised=frozenset(range(models, len(rows))),
    )


def _difference(model: float | None, reference: float | None) -> str:
    return "-" if model is None or reference is None else signed(model - reference)


def _output_tables(space: Task, task: str, where: str, tests: Tests) -> Iterator[Table]:
    """Yield a table with a row per finding or zone, if there are several."""
    names, final = space.prediction_names, final_test(tests)
    metric = "auroc" if space.binary_outputs else "mae"
    keys = {name: f"{task}/{metric}_{name}" for name in names}
    models = {name: test for name, test in tests.items() if test}
    if len(names) < 2 or not any(key in final for key in keys.values()):
        return
    counts = ("positives", "negatives") if space.binary_outputs else ()
    yield Table(
        f"{where}: {measure(space, metric)} of each output",
        ["output", *(f"patients,\n{of}" for of in counts), *models],
        [
            [
                name,
                *(reported(final.get(f"{task}/{of}_{name}")) for of in counts),
                *(format_metric(test, key) for test in models.values()),
            ]
            for name, key in keys.items()
        ],
    )


def _result_plots(run: Run, task: str, where: str, tests: Tests) -> Iterator[Figure]:
    """Plot the primary metric of every model, and the error of each output if there are several."""
    space, key = run.config.space(task), f"{task}/{run.config.space(task).primary}"
    colours = arm_colours(("constant", "probe", "local", "federated"))
    colour_of = {name: colours[name.split()[0].rstrip(",")] for name in tests}
    estimates = [
        Estimate(name, test[key], test.get(f"{key}_low"), test.get(f"{key}_high"), colour_of[name])
        for name, test in tests.items()
        if test and test.get(key) is not None
    ]
    if not estimates:
        return
    panels: list[Panel] = []
    better = f"{measure(space, space.primary)}, {space.primary_is_better_when} is better"
    alt, height = "; ".join(map(str, estimates)), 70 + 30 * len(estimates)
    with panel(panels, "Models", better, "", alt=alt, height=height) as axes:
        for row, one in enumerate(estimates):
            if one.interval is not None:
                axes.hlines(row, *one.interval, color=one.colour, linewidth=2.5)
            axes.plot(one.value, row, "o", color=one.colour, markersize=7)
        name_rows(axes, [one.name for one in estimates])
    if not space.binary_outputs and space.width > 1:
        bars = {
            name: [
                Estimate(f"{name}, {output}", float("nan") if mae is None else mae, None, None, c)
                for output in space.labels
                for mae, c in ((test.get(f"{task}/mae_{output}"), colour_of[name]),)
            ]
            for name, test in tests.items()
            if test and not name.startswith("federated, best")
        }
        title = f"MAE of each output: {', '.join(bars)} (left to right)"
        draw_bars(panels, title, space.labels, bars)
    legend = list(colour_of.items()) if len(panels) > 1 else ()
    yield Figure(f"{where}: dots are values, lines 95 % intervals by patient.", panels, legend)
