"""The page of a study: the same comparison over arms, backbones, folds and seeds."""

from collections.abc import Iterator

from mdmt.report import figures, tables
from mdmt.report.canvas import arm_colours
from mdmt.report.caveats import study_caveats
from mdmt.report.cross_site import cross_site_tables
from mdmt.report.fractions import fraction_blocks
from mdmt.report.gains import gain_tables
from mdmt.report.learning import study_learning
from mdmt.report.page import Block, Details, Page
from mdmt.report.predictions import prediction_figures
from mdmt.report.setup import config_blocks, fold_blocks, versions_paragraph
from mdmt.report.words import at, count, metric_name, probability, signed
from mdmt.results.statistics import mean_of
from mdmt.results.studies import Study

_Key = dict[str, str | int]


def study_page(study: Study) -> Page:
    """Lay out the report of a study, as far as it went."""
    return Page(
        title=study.config["name"],
        kind="study",
        summary=list(_summary(study)),
        caveats=study_caveats(study),
        sections=[
            ("gains", "Gains over the comparators", list(gain_tables(study))),
            ("fractions", "Gains by number of patients", list(fraction_blocks(study))),
            ("results", "Results on the test sets", list(_results(study))),
            ("elsewhere", "Models at other sites", list(cross_site_tables(study))),
            ("differences", "Paired differences", list(_differences(study))),
            ("predictions", "Predictions", list(prediction_blocks(study))),
            ("learning", "Learning curves", study_learning(study)),
            ("setup", "What was run", list(_setup(study))),
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
    pairs = tables.paired_differences(study, task, site)
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
    p = tables.paired_test(study, task, site, arm).get("p_t_holm")
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
        blocks: list[Block] = []
        for backbone in study.backbones:
            blocks.append(tables.arm_table(study, task, site, backbone))
            blocks += filter(None, [tables.patient_table(study, task, site, backbone)])
        if len(study.backbones) > 1:
            yield tables.backbone_table(study, task, site)
            yield Details(f"{at(task, site)}: every metric of every backbone", blocks)
        else:
            yield from blocks


def _differences(study: Study) -> Iterator[Block]:
    colours = arm_colours(study.arms)
    # Arms that see no image are so far off that they would squeeze the others together.
    blind = study.arms_of("constant", "metadata")
    for task, site in study.tested():
        pairs = tables.paired_differences(study, task, site)
        if not pairs:
            continue
        yield tables.difference_table(study, task, site)
        rows = {
            arm: study.tests.means(task, site, cells)
            for arm, cells in pairs.items()
            if arm not in blind
        }
        if rows:
            caption = f"{at(task, site)}: each arm minus {study.reference} in the same cells."
            name = metric_name(study.spaces[task].primary)
            yield figures.difference_figure(caption, rows, colours, f"difference in {name}")
        tests = (tables.delong_table(study, task, site, backbone) for backbone in study.backbones)
        patients = [table for table in tests if table is not None]
        if len(study.backbones) > 1:
            cells = [tables.difference_table(study, task, site, b) for b in study.backbones]
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
        yield tables.cost_table(study)
    yield from config_blocks(study.config)


def prediction_blocks(study: Study) -> Iterator[Block]:
    """Figures of the first backbone and seed; those of the other backbones are folded."""
    seed = next((row.cell.seed for row in study.results), 0)
    for number, backbone in enumerate(study.backbones):
        blocks: list[Block] = []
        for task, site in study.tested():
            key: _Key = {"backbone": backbone, "seed": seed, "site": site, "task": task}
            found = {one.arm: one for one in study.predictions if one.key == key}
            if found:
                arms = {arm: found[arm] for arm in study.arms if arm in found}
                known = study.statistic("intervals", **key)
                intervals = {row["arm"]: (row["low"], row["high"]) for row in known}
                blocks += prediction_figures(
                    at(task, site),
                    study.spaces[task],
                    arms,
                    arm_colours(study.arms),
                    study.reference,
                    intervals,
                )
        if blocks and number == 0:
            yield (
                "Unit of analysis: the patient. Test predictions of all folds, backbone"
                f" {backbone}, seed {seed}; intervals draw patients with all their images."
            )
            yield from blocks
        elif blocks:
            yield Details(f"Backbone {backbone}", blocks)
