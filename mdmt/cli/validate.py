"""``mdmt validate``: check a configuration file and the datasets that it names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdmt.cli.console import new_table, progress_console, show_results

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.table import Table

    from mdmt.config import FederationConfig, SiteConfig
    from mdmt.data.tabular import Issue
    from mdmt.data.validation import ValidationReport


def validate(
    file: Annotated[Path, typer.Argument(help="YAML file of a federation or of a site.")],
) -> None:
    """Check a configuration file, and every image and label of its datasets.

    The exit code is 2 if an error would make training wrong.
    """
    from mdmt.config import FederationConfig, SiteConfig, build_config, find_config, read_yaml

    path = find_config(file)
    keys = read_yaml(path)
    if "dataset" in keys and "model" not in keys:
        site = build_config(SiteConfig, keys, path)
        sites, seed, problems = {site.name: site}, 0, []
    else:
        federation = build_config(FederationConfig, keys, path)
        sites, seed = dict(federation.sites), federation.seed
        problems = [*_disagreements(federation), *_model_problems(federation)]
    typer.echo(f"{path}: valid configuration")
    for problem in problems:
        typer.echo(f"error: {problem}")
    splits = _common_splits(sites, seed)
    wrong = [_check_dataset(sites[name], seed, splits.get(name)) for name in sorted(sites)]
    if problems or any(wrong):
        raise typer.Exit(2)


def _disagreements(federation: FederationConfig) -> Iterator[str]:
    """Yield the reasons in the file for which registration would refuse the federation."""
    for name, site in sorted(federation.sites.items()):
        for task, entry in site.tasks.items():
            if task not in federation.tasks:
                yield f"site {name} offers the task {task}, which the federation does not define"
            elif difference := federation.space(task).disagreement(entry.space):
                yield f"site {name} disagrees on the task {task}: {difference}"
    offered = {task for site in federation.sites.values() for task in site.tasks}
    for task in federation.tasks:
        if federation.sites and task not in offered:
            yield f"no site offers the task {task}"


def _model_problems(federation: FederationConfig) -> Iterator[str]:
    """Build the backbone and open the file of its weights, as a simulation would.

    A file without sites is not simulated. Weights of the model hub are not downloaded. With
    differential privacy, print what the recipe spends, and yield why the model cannot be trained.
    """
    private = federation.privacy.dp is not None
    if not federation.sites and not private:
        return
    from mdmt.errors import MDMTError
    from mdmt.models import build_model
    from mdmt.privacy.accounting import describe_cost
    from mdmt.privacy.dp_training import check_private_model

    if private:
        typer.echo(f"differential privacy: {describe_cost(federation)}")
    try:
        model = build_model(federation, (), weights=federation.model.weights != "timm")
        if private:
            check_private_model(model, federation)
    except MDMTError as error:
        yield str(error)


def _common_splits(sites: Mapping[str, SiteConfig], seed: int) -> dict[str, NDArray[np.str_]]:
    """Return the splits that a simulation of all sites uses; none of a site that cannot be read."""
    from mdmt.data.readers import inspect_manifest
    from mdmt.data.stratified import stratify
    from mdmt.errors import DataError

    manifests = {}
    for name, site in sites.items():
        with suppress(DataError):  # reported by the check of the dataset
            manifests[name] = inspect_manifest(site, seed)[0]
    if sum(m.division.by == "stratified" for m in manifests.values()) and len(sites) > 1:
        typer.echo("a patient of several sites is on one side: all sites are divided at once")
    return {name: manifest.splits for name, manifest in stratify(sites, manifests, seed).items()}


def _check_dataset(site: SiteConfig, seed: int, splits: NDArray[np.str_] | None) -> bool:
    """Print the counts and issues of a site. Return True if an issue is an error."""
    from mdmt.data.validation import validate_dataset

    with progress_console().status(f"{site.name}: reading") as status:
        report = validate_dataset(
            site,
            seed,
            progress=lambda done, n: status.update(f"{site.name}: image {done} of {n}"),
            splits=splits,
        )
    if report.account:
        typer.echo(f"{site.name}: {report.account}")
    if report.division:
        typer.echo(f"{site.name}: {report.division}")
    show_results(*_tables(report))
    return bool(report.errors)


def _tables(report: ValidationReport) -> Iterator[Table]:
    counts = new_table(f"{report.site}: usable data", "", ">train", ">val", ">test")
    for what, by_split in (("images", report.images), ("patients", report.patients)):
        counts.add_row(what, *(str(by_split.get(split, 0)) for split in ("train", "val", "test")))
    for task, splits in report.labels.items():
        for column, labels in next(iter(splits.values())).items():
            for label in labels:
                numbers = (str(split[column][label]) for split in splits.values())
                counts.add_row(f"{task}: {column} = {label}", *numbers)
    yield counts
    if report.issues:
        issues = new_table(f"{report.site}: issues", "severity", "place", "issue")
        for severity, places, message in _grouped(report.issues):
            issues.add_row(severity, places, message)
        yield issues


def _grouped(issues: Iterable[Issue]) -> Iterator[tuple[str, str, str]]:
    """Yield severity, places and message. Issues that differ only in a file or number are one."""
    groups: dict[tuple[str, str], list[Issue]] = {}
    for issue in sorted(issues, key=lambda issue: issue.severity):
        kind = re.sub(r"\S*/\S+|\d+", "*", issue.message.replace(issue.where, "*"))
        groups.setdefault((issue.severity, kind), []).append(issue)
    for (severity, _), same in groups.items():
        first = same[0]
        places = first.where if len(same) == 1 else f"{first.where} and {len(same) - 1} more"
        yield severity, places, first.message
