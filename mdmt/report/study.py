"""The page of a study: the same comparison over arms, backbones, folds and seeds."""

from __future__ import annotations

from collections.abc import Iterator

from mdmt.report.canvas import arm_colours
from mdmt.report.caveats import study_caveats
from mdmt.report.comparisons import (
    delong_table,
    difference_table,
    paired_differences,
    paired_test,
)
from mdmt.report.figures import difference_figure
from mdmt.report.learning import study_learning
from mdmt.report.page import Block, Details, Page, Section
from mdmt.report.predictions import prediction_blocks
from mdmt.report.setup import config_blocks, fold_blocks, versions_paragraph
from mdmt.report.tables import arm_table, backbone_table, cost_table, patient_table
from mdmt.report.words import at, count, metric_name, probability, signed
from mdmt.results.statistics import mean_of
from mdmt.results.studies import Study

__all__ = ["study_page"]


def study_page(study: Study) -> Page:
    """Lay out the report of a study, as far as it went."""
    return Page(
        title=study.config["name"],
        kind="study",
        summary=list(_summary(study)),
        caveats=study_caveats(study),
        sections=[
            Section("results", "Results on the test sets", list(_results(study))),
            Section("differences", "Paired differences", list(_differences(study))),
            Section("predictions", "Predictions", list(prediction_blocks(study))),
            Section("learning", "Learning curves", study_learning(study)),
            Section("setup", "What was run", list(_setup(study))),
        ],
    )


def _summary(study: Study) -> Iterator[str]:
    cells = {row.cell for row in study.results}
    parts = (
        count(len(study.arms), "arm"),
        count(len(study.backbones), "backbone"),
        count(len({cell.fold for cell in cells}), "fold"),
        count(len({cell.seed for cell in cells}), "seed"),
    )
    yield f"The same data, recipe and number of steps for {', '.join(parts)}."
    for task, site in study.tested():
        if task == study.config["target"]:
            yield _finding(study, task, site)


def _finding(study: Study, task: str, site: str) -> str:
    """Say what the reference reached and how the arms that share tasks differ from it."""
    pairs = paired_differences(study, task, site)
    if study.reference is None or not pairs:
        return f"{at(task, site)}: no arm can be compared with one that trains alone yet."
    space = study.spaces[task]
    values = study.values(study.reference, site, task, space.primary)
    base = mean_of(study.tests.means(task, site, values))
    differences = [
        _difference(study, task, site, arm, study.tests.means(task, site, pairs[arm]))
        for arm in study.arms_of("federated", "pooled")
        if arm in pairs
    ]
    name = metric_name(space.primary)
    return f"{at(task, site)}: {study.reference} reaches {name} {base}; {', '.join(differences)}."


def _difference(study: Study, task: str, site: str, arm: str, values: list[float]) -> str:
    """Describe the difference of an arm: better or worse only if the corrected test shows it."""
    value = mean_of(values).value
    p = paired_test(study, task, site, arm).get("p_t_holm")
    if p is None:
        verdict = "not tested"
    else:
        higher = study.spaces[task].primary_is_better_when == "higher"
        better = "better" if (value > 0) == higher else "worse"
        verdict = better if p < 0.05 else "no difference shown"
        verdict += f", Holm-corrected paired t test p {probability(p)}"
    return f"{arm} differs by {signed(value)} ({verdict})"


def _results(study: Study) -> Iterator[Block]:
    for task, site in study.tested():
        tables: list[Block] = []
        for backbone in study.backbones:
            tables.append(arm_table(study, task, site, backbone))
            tables += filter(None, [patient_table(study, task, site, backbone)])
        if len(study.backbones) > 1:
            yield backbone_table(study, task, site)
            yield Details(f"{at(task, site)}: every metric of every backbone", tables)
        else:
            yield from tables


def _differences(study: Study) -> Iterator[Block]:
    colours = arm_colours(study.arms)
    # Arms that see no image are so far off that they would squeeze the others together.
    blind = study.arms_of("constant", "metadata")
    for task, site in study.tested():
        pairs = paired_differences(study, task, site)
        if not pairs:
            continue
        yield difference_table(study, task, site)
        rows = {
            arm: study.tests.means(task, site, cells)
            for arm, cells in pairs.items()
            if arm not in blind
        }
        if rows:
            caption = f"{at(task, site)}: each arm minus {study.reference} in the same cells."
            name = metric_name(study.spaces[task].primary)
            yield difference_figure(caption, rows, colours, f"difference in {name}")
        tests = (delong_table(study, task, site, backbone) for backbone in study.backbones)
        patients = [table for table in tests if table is not None]
        if len(study.backbones) > 1:
            cells = [difference_table(study, task, site, b) for b in study.backbones]
            yield Details(f"{at(task, site)}: every backbone", [*cells, *patients])
        else:
            yield from patients


def _setup(study: Study) -> Iterator[Block]:
    data = study.facts.get("data", [])
    for number, one in enumerate(data):
        if number == 0:
            yield from fold_blocks(one)
        else:
            seeds = ", ".join(map(str, one["seeds"]))
            yield Details(f"Other seeds have their own data: seeds {seeds}", fold_blocks(one))
    yield from versions_paragraph(study.facts.get("versions", {}))
    if study.cells:
        yield cost_table(study)
    yield from config_blocks(study.config)
