"""``mdmt evaluate``: test a release on new labelled data of one site."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mdmt.cli.console import new_table, progress_console, show_results
from mdmt.enough import FEWEST_OF_A_CLASS
from mdmt.errors import BadInput
from mdmt.files import write_json

if TYPE_CHECKING:
    from rich.table import Table

    from mdmt.config import FederationConfig

FORMAT = 1
_METRICS = 3


def evaluate(
    release: Annotated[Path, typer.Argument(help="Release folder, or the run directory it is in.")],
    data: Annotated[
        Path, typer.Argument(help="site.yaml, or a table (CSV, XLSX) beside its images.")
    ],
    out: Annotated[Path, typer.Option(help="JSON to write; never an existing file.")] = Path(
        "evaluation.json"
    ),
    by: Annotated[
        list[str] | None,
        typer.Option(help="Column of subgroups, such as sex, age, view; may be repeated."),
    ] = None,
    heads: Annotated[
        Path | None,
        typer.Option(help="A site's saved state (round-NNNNN.safetensors), for its own heads."),
    ] = None,
    min_patients: Annotated[
        int, typer.Option(min=1, help="Fewest patients behind a reported number.")
    ] = FEWEST_OF_A_CLASS,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu or cuda:0.", show_default="that of site.yaml")
    ] = None,
) -> None:
    """Test a release on labelled data of one site: all its rows, whatever their splits."""
    if out.exists():
        raise BadInput(f"{out}: exists already; choose another --out")
    from mdmt.cli.predict import open_models
    from mdmt.data.cohort import open_cohort
    from mdmt.data.labelled import labelled_site
    from mdmt.external_test import evaluate_release
    from mdmt.training import resolve_device

    opened, models = open_models(release, heads)
    config = opened.config
    site = labelled_site(data, config, by or ())
    least = max(min_patients, site.policy.min_examples_per_metric)
    with progress_console().status("reading") as status:
        cohort = open_cohort(
            site, config, progress=lambda done, n: status.update(f"image {done} of {n}")
        )
        status.update("evaluating")
        place = resolve_device(device or site.device)
        results = evaluate_release(models, cohort, config, place, least)
    if not results:
        raise BadInput(f"{opened.folder}: holds no head for {', '.join(site.tasks)}; see --heads")
    write_json(
        out,
        {
            "format": FORMAT,
            "release": {
                "federation": config.name,
                "run": opened.run,
                "hash": opened.hash,
                "rounds": {task: opened.rounds[task] for task in results},
            },
            "site": site.name,
            "data": cohort.fingerprint(),
            "min_patients": least,
            "tasks": results,
        },
    )
    show_results(*_tables(config, results))
    typer.echo(f"Brackets: 95 % intervals by patient bootstrap. -: fewer than {least} patients.")
    typer.echo(f"{out}: written")


def _tables(config: FederationConfig, results: Mapping[str, Any]) -> Iterator[Table]:
    for task, by_site in results.items():
        # The table must fit into 80 columns; the file has all metrics.
        better = dict(islice(config.space(task).shown_metrics.items(), _METRICS))
        for site, found in by_site.items():
            title = f"{task}, head of {site}" if site else f"{task}, shared head"
            heading = [
                ">" + name.replace("_", "\n") + f"\n({way}\nis better)"
                for name, way in better.items()
            ]
            table = new_table(title, "group", ">patients", *heading)
            table.add_row("all", *_cells(found["all"], better))
            for column, groups in found["subgroups"].items():
                for group, measured in groups.items():
                    table.add_row(f"{column}: {group}", *_cells(measured, better))
            yield table


def _cells(measured: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[str]:
    withheld = measured["patients"] is None
    yield "-" if withheld else str(measured["patients"])
    for name in names:
        metric = measured["metrics"].get(name, {})
        if withheld or metric.get("value") is None:
            yield "-" if withheld else "undefined"
            continue
        ends = metric.get("low"), metric.get("high")
        interval = "" if None in ends else f" [{ends[0]:.3f}, {ends[1]:.3f}]"
        yield f"{metric['value']:.3f}{interval}"
