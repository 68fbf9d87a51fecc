"""The main table of a study, from its ``statistics.json``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["study_tables"]


def study_tables(folder: Path) -> Iterator[RenderableType]:
    """Yield, task by task, each arm's primary metric; then the caveats."""
    from rich.text import Text

    from mdmt.cli.console import new_table
    from mdmt.files import read_json

    statistics, study = read_json(folder / "statistics.json"), read_json(folder / "study.json")
    tasks = sorted(statistics["primary"], key=lambda task: task != statistics["target"])
    for task in tasks:
        metric, better = (statistics["primary"][task][key] for key in ("metric", "better"))
        rows = [
            row
            for row in statistics["summary"]["rows"]
            if (row["task"], row["metric"]) == (task, metric)
        ]
        sites = list(dict.fromkeys(row["site"] for row in rows))
        title = f"{task}: {metric} ({better} is better), mean ± standard error over test sets"
        table = new_table(title, "arm", "backbone", *(f">{site}" for site in sites))
        by_arm: dict[tuple[str, str], dict[str, str]] = {}
        for row in rows:
            by_arm.setdefault((row["arm"], row["backbone"]), {})[row["site"]] = _cell(row)
        for (arm, backbone), values in by_arm.items():
            table.add_row(arm, backbone, *(values.get(site, "-") for site in sites))
        yield table
    for caveat in study["caveats"]:
        yield Text(f"Note: {caveat}.")


def _cell(row: dict[str, Any]) -> str:
    """Write ``0.700 ± 0.020 (5)``: mean, error, distinct test sets."""
    if row["mean"] is None:
        return "undefined"
    error = "" if row["error"] is None else f" ± {row['error']:.3f}"
    return f"{row['mean']:.3f}{error} ({row['n']})"
