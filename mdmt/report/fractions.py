"""At which number of patients a federation pays: metrics and gains by fraction of the patients."""

from collections.abc import Iterator, Mapping
from typing import Any

from mdmt.report.canvas import arm_colours, panel
from mdmt.report.page import Block, Figure, Panel, Table
from mdmt.report.words import metric_name, probability, signed
from mdmt.results.gains import MEAN
from mdmt.results.runs import read_object
from mdmt.results.studies import Study, fraction_folder

Rows = list[dict[str, Any]]


def fraction_blocks(study: Study) -> Iterator[Block]:
    """Yield a figure of all targets and a table of gains, as far as the fractions are finished."""
    tables: dict[float, Mapping[str, Any]] = {}
    for fraction in sorted(study.config.get("train_fraction") or ()):
        file = fraction_folder(study.folder, fraction) / "statistics.json"
        if found := read_object(file, "out_of_fold", "gains"):
            tables[fraction] = found
    if len(tables) < 2:
        return
    for backbone in study.backbones:
        values, gains = (
            {f: _of_targets(found[name]["rows"], backbone) for f, found in tables.items()}
            for name in ("out_of_fold", "gains")
        )
        yield _figure(study, backbone, values)
        yield _table(study, backbone, gains)


def _of_targets(rows: Rows, backbone: str) -> Rows:
    """Rows of the primary metric of each target: those of the mean of its sites, or of its site."""
    several = {row["task"] for row in rows if row["site"] == MEAN}
    return [
        row
        for row in rows
        if row["backbone"] == backbone and (row["site"] == MEAN or row["task"] not in several)
    ]


def _figure(study: Study, backbone: str, values: Mapping[float, Rows]) -> Figure:
    colours, panels = arm_colours(study.arms), list[Panel]()
    shown = set()
    for task in dict.fromkeys(row["task"] for rows in values.values() for row in rows):
        metric = study.spaces[task].primary
        curves: dict[str, list[tuple[float, dict[str, Any]]]] = {}
        for fraction, rows in values.items():
            for row in rows:
                if (row["task"], row["metric"]) == (task, metric) and row["value"] is not None:
                    curves.setdefault(row["arm"], []).append((fraction, row))
        alt = "; ".join(
            f"{arm} " + ", ".join(f"{row['value']:.3f} at {f:.0%}" for f, row in points)
            for arm, points in curves.items()
        )
        labels = task, "patients to learn from", metric_name(metric)
        with panel(panels, *labels, alt=alt) as axes:
            for number, (arm, points) in enumerate(curves.items()):
                shown.add(arm)
                # Intervals of two arms at one fraction would hide each other.
                x = [f * 1.03 ** (number - len(curves) / 2) for f, _ in points]
                y = [row["value"] for _, row in points]
                axes.plot(x, y, "o-", color=colours[arm], markersize=4)
                for place, (_, row) in zip(x, points, strict=True):
                    if row["low"] is not None:
                        axes.vlines(place, row["low"], row["high"], color=colours[arm], alpha=0.6)
            axes.set_xscale("log")
            axes.set_xticks(list(values), [f"{fraction:.0%}" for fraction in values])
            axes.minorticks_off()
    caption = (
        f"{backbone}: metric of each target by the fraction of the patients that train and"
        " validate, with 95 % intervals over patients. The test patients are the same."
    )
    return Figure(caption, panels, [(arm, colours[arm]) for arm in study.arms if arm in shown])


def _table(study: Study, backbone: str, gains: Mapping[float, Rows]) -> Table:
    rows = []
    for row, fraction in ((row, f) for f, rows_of in gains.items() for row in rows_of):
        known = row["gain"] is not None and row["low"] is not None
        rows.append(
            [
                *(row["task"], f"{row['arm']} minus {row['comparator']}", f"{fraction:.0%}"),
                "undefined" if row["gain"] is None else signed(row["gain"]),
                f"[{signed(row['low'])}, {signed(row['high'])}]" if known else "-",
                probability(row["p_holm"]),
            ]
        )
    return Table(
        f"{backbone}: gains by fraction of the patients (above 0 is better)",
        ["target", "arms", "patients", "gain", "95 % interval", "p (Holm)"],
        sorted(rows, key=lambda row: (row[0], row[1])),
        note=study.unit("gains") + " Holm's correction is within a fraction.",
        words=frozenset({1}),
    )
