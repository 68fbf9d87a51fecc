"""What the sites measured after the last round, and what is missing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from mdmt.messages import EvaluateReport, Metrics

FORMAT = 1
"""Version of ``metrics.json``."""


@dataclass
class Results:
    """The measurements of the sites, also those of an earlier attempt of the same run.

    Attributes
    ----------
    reports : dict of int to dict
        Round → site → its evaluation of the model after this round.
    references : dict of str to dict
        Reference → site → metrics by split.
    differences : dict of str to dict
        Reference → site → round → model of this round minus reference, on the test split.
    reasons : dict of str to str
        Site → why it last gave no measurement.
    """

    reports: dict[int, dict[str, EvaluateReport]] = field(default_factory=dict)
    references: dict[str, dict[str, Mapping[Any, Metrics]]] = field(default_factory=dict)
    differences: dict[str, dict[str, dict[int, Metrics]]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, metrics: Mapping[str, Any]) -> Results:
        """Read the measurements in the ``metrics.json`` of an earlier attempt."""
        results = cls()
        for entry in metrics["checkpoints"].values():
            number = entry["round"]
            results.reports[number] = {
                site: EvaluateReport(site=site, round=number, metrics=found)
                for site, found in entry["sites"].items()
            }
            for name, sites in entry.get("differences", {}).items():
                for site, found in sites.items():
                    results.differences.setdefault(name, {}).setdefault(site, {})[number] = found
        for name, entry in metrics["references"].items():
            results.references[name] = dict(entry["sites"])
        return results

    def describe(
        self, checkpoints: Mapping[str, int], references: Collection[str], sites: Collection[str]
    ) -> dict[str, Any]:
        """Return the content of ``metrics.json``.

        Parameters
        ----------
        checkpoints : mapping of str to int
            Name of each tested model → its round.
        references : collection of str
        sites : collection of str
            Sites that ever took part in the run: each should have measured everything.
        """
        models: dict[str, dict[str, Any]] = {
            name: {"round": number, "sites": self._metrics(number)} | self._differences(number)
            for name, number in checkpoints.items()
        }
        compared: dict[str, dict[str, Any]] = {
            name: {"sites": dict(sorted(self.references.get(name, {}).items()))}
            for name in references
        }
        missing = {
            name: lacking
            for name, entry in [*models.items(), *compared.items()]
            if (lacking := self._missing({*sites} - {*entry["sites"]}))
        }
        found = {"format": FORMAT, "checkpoints": models, "references": compared}
        return found | ({"missing": missing} if missing else {})

    def _metrics(self, number: int) -> dict[str, Any]:
        return {site: report.metrics for site, report in self.reports.get(number, {}).items()}

    def _differences(self, number: int) -> dict[str, Any]:
        """Return the differences of the model of a round, if any site reported some."""
        found = {
            name: {s: of[number] for s, of in sorted(sites.items()) if of.get(number)}
            for name, sites in self.differences.items()
        }
        found = {name: sites for name, sites in found.items() if sites}
        return {"differences": found} if found else {}

    def _missing(self, sites: Collection[str]) -> dict[str, str]:
        return {site: self.reasons.get(site, "not connected") for site in sorted(sites)}


def describe_missing(metrics: Mapping[str, Any]) -> str:
    """Say in a sentence what a ``metrics.json`` lacks; empty if it is complete."""
    missing: dict[str, dict[str, str]] = metrics.get("missing", {})
    reasons = {site: why for sites in missing.values() for site, why in sites.items()}
    if not reasons:
        return ""
    each = (
        f"{site} ({why}) did not measure {', '.join(n for n in missing if site in missing[n])}"
        for site, why in sorted(reasons.items())
    )
    return f"results are missing: {'; '.join(each)}"
