"""Reading a run directory. A run that is not finished, or failed, is read as far as it went."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdmt.errors import BadInput
from mdmt.results.verdicts import Gain, gain

if TYPE_CHECKING:
    from mdmt.config import FederationConfig

REFERENCES = {"constant": "constant", "probe": "probe", "local": "local only"}
"""References in the order in which they are shown, and their names in tables."""


def shown_reference(name: str) -> str:
    """Name of a reference in a table."""
    return REFERENCES.get(name, name)


@dataclass(frozen=True)
class Run:
    """The files of a run directory.

    Attributes
    ----------
    folder : Path
    config : FederationConfig
    sites, metrics, release : dict or None
        ``sites.json``, ``metrics.json`` and ``release.json``; None if the run did not get that far.
    history, events : list of dict
        Lines of ``history.jsonl`` and ``events.jsonl``.
    """

    folder: Path
    config: FederationConfig
    sites: dict[str, Any] | None
    metrics: dict[str, Any] | None
    release: dict[str, Any] | None
    history: list[dict[str, Any]]
    events: list[dict[str, Any]]

    @property
    def outcome(self) -> str:
        """``done``, or what is missing, how the run failed or how far it went."""
        last = self.events[-1] if self.events else {}
        if last.get("event") in ("failed", "incomplete"):
            return f"{last['event']}: {last['message'].rstrip(': ')}"
        if last.get("event") == "done":
            return "done"
        reached = self.history[-1]["round"] if self.history else 0
        return f"unfinished: booked up to round {reached} of {self.config.training.rounds}"

    @property
    def references(self) -> list[str]:
        """Names of the references in ``metrics.json``, the weakest first."""
        there, order = (self.metrics or {}).get("references", {}), list(REFERENCES)
        return sorted(there, key=lambda name: order.index(name) if name in order else len(order))

    def released(self, task: str) -> str:
        """Return the name of the checkpoint that is released for `task`.

        Version 0.3 and earlier released the best round if there was one.
        """
        checkpoints, best = (self.metrics or {})["checkpoints"], f"best:{task}"
        number = (self.release or {}).get("rounds", {}).get(task)
        if number is None or number == checkpoints["last"]["round"] or best not in checkpoints:
            return "last"
        return best

    def gains(self, task: str, site: str) -> dict[str, Gain]:
        """Return what the released model gained over each reference at a site."""
        if self.metrics is None:
            return {}
        space, released = self.config.space(task), self.metrics["checkpoints"][self.released(task)]
        return {
            name: gain(
                released,
                self.metrics["references"],
                name,
                site,
                f"{task}/{space.primary}",
                space.primary_is_better_when,
            )
            for name in self.references
            if site in self.metrics["references"][name]["sites"]
        }

    def tests(self, task: str) -> Iterator[tuple[str, dict[str, dict[str, Any] | None]]]:
        """Yield each site that tests `task`, with the test metrics of every model there.

        Models are the references (`REFERENCES` first), ``federated, last (round)`` and ``federated,
        best (round)``, if the run has them; None if a model has no test metrics at the site.
        """
        if self.metrics is None:
            return
        checkpoints, references = self.metrics["checkpoints"], self.metrics.get("references", {})
        last, best = checkpoints["last"], checkpoints.get(f"best:{task}")
        models = {shown_reference(name): references[name] for name in self.references}
        models |= {f"federated, last ({last['round']})": last}
        models |= {f"federated, best ({best['round']})": best} if best else {}
        tested = [model["sites"] for model in (last, best) if model]
        for site in sorted({site for sites in tested for site in sites}):
            if any(f"{task}/examples" in sites[site]["test"] for sites in tested if site in sites):
                known = {name: model["sites"] for name, model in models.items() if model}
                yield site, {name: at.get(site, {}).get("test") for name, at in known.items()}


def read_run(folder: Path) -> Run:
    """Read a run directory.

    Raises
    ------
    BadInput
        There is no run, or one of its files is damaged.
    """
    from mdmt.config import load_saved_federation

    if not (folder / "federation.yaml").is_file():
        raise BadInput(f"{folder}: not a run directory; it has no federation.yaml")
    return Run(
        folder=folder,
        config=load_saved_federation(folder / "federation.yaml"),
        sites=read_object(folder / "sites.json"),
        metrics=read_object(folder / "metrics.json"),
        release=read_object(folder / "release" / "release.json"),
        history=read_lines(folder / "history.jsonl"),
        events=read_lines(folder / "events.jsonl"),
    )


def read_object(file: Path, *keys: str) -> dict[str, Any] | None:
    """Read a JSON object that has at least these keys; None if there is no such file."""
    if not file.exists():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(f"{file}: damaged: {error}") from error
    missing = [key for key in keys if key not in found] if isinstance(found, dict) else ["object"]
    if missing:
        raise BadInput(f"{file}: damaged: it has no {missing[0]}")
    return dict(found)


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Read the complete lines of a JSON-lines file, which another process may be writing."""
    if not file.exists():
        return []
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    try:
        return [json.loads(line) for line in lines if line.endswith("\n")]
    except ValueError as error:
        raise BadInput(f"{file}: damaged: {error}") from error


def count_labels(columns: Mapping[str, Mapping[str, int] | None]) -> dict[str, int] | None:
    """Count each label over all columns of a task's histogram; None if one is withheld."""
    total: dict[str, int] = {}
    for counts in columns.values():
        if counts is None:
            return None
        for label, count in counts.items():
            total[label] = total.get(label, 0) + count
    return total


def format_metric(metrics: dict[str, Any], key: str) -> str:
    """Write a metric with its interval if it has one: ``0.800 [0.700, 0.900]``."""
    value, low, high = (metrics.get(key + end) for end in ("", "_low", "_high"))
    if value is None:
        withheld = metrics.get(f"{key.partition('/')[0]}/examples", 0) is None
        return "-" if withheld or key not in metrics else "undefined"
    interval = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    return f"{value:.3f}{interval}".replace("-", "−")
