"""Hospitals with secure aggregation, and the coordinator who reads their sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mdmt.blob import Arrays
from mdmt.config import FederationConfig
from mdmt.deployment.keys import fingerprint, new_key, write_key
from mdmt.messages import KeyOrder, KeyStatement, SecureRound, TrainOrder
from mdmt.privacy.metric_sums import METRICS, MetricLayout, from_words
from mdmt.privacy.tables import fixed_point, round_table
from server.secure_rounds import add_masked

from .hospital import Hospital, Patients, Reply

Named = dict[str, NDArray[np.float32]]


class Hospitals:
    """Several hospitals under secure aggregation, with the methods of one.

    Parameters
    ----------
    folder : Path
    asked : FederationConfig
    patients : mapping of str to Patients
        By name. The first is the one that the attacker is after.
    deployed : bool
        Give each hospital a key, and the fingerprints of the others in `policy.peers`.
    options : mapping
        Of each `Hospital`.
    """

    def __init__(
        self,
        folder: Path,
        asked: FederationConfig,
        patients: Mapping[str, Patients],
        *,
        deployed: bool = False,
        changes: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.asked = asked
        self.keys = {name: new_key() for name in patients} if deployed else {}
        known = {name: fingerprint(key.public_key()) for name, key in self.keys.items()}
        self.sites = {}
        for name, own in patients.items():
            policy = dict(changes or {})
            if deployed:
                policy["peers"] = {peer: known[peer] for peer in known if peer != name}
                options["approved"] = asked.hash
            self.sites[name] = Hospital(
                folder / name, asked, name=name, patients=own, changes=policy, **options
            )
            if deployed:
                write_key(self.keys[name], folder / name / "site.key", openssh=True)
        self.name = next(iter(self.sites))
        self._statements: dict[int, dict[str, KeyStatement]] = {}

    def card(self) -> dict[str, Any]:
        """Ask the first hospital for its site card."""
        return self.sites[self.name].card()

    def statements(self, run: int, names: Sequence[str] = ()) -> dict[str, KeyStatement]:
        """Ask hospitals for their statements in a run; all unless named."""
        known = self._statements.setdefault(run, {})
        for name in names or self.sites:
            if name not in known:
                order = KeyOrder(run=f"{run:012x}", recipe=self.asked.recipe)
                report = self.sites[name].ask("query.keys", order).report
                known[name] = KeyStatement.model_validate(report)
        return {name: known[name] for name in sorted(names or self.sites)}

    def train(
        self,
        arrays: Arrays,
        *,
        run: int = 1,
        number: int = 1,
        rate: float = 1.0,
        coefficients: Mapping[str, float] | None = None,
    ) -> Reply:
        """Order a round, and return what the coordinator can read: the sum."""
        table = self.table(run, rate=rate)
        if coefficients is not None:
            own = {name: dict(coefficients) for name in table.statements}
            table = table.model_copy(update={"coefficients": own})
        masked = [self.masked(name, arrays, table, run, number) for name in table.statements]
        return self.open(arrays, table, masked)

    def table(self, run: int, names: Sequence[str] = (), rate: float = 1.0) -> SecureRound:
        """Return the table that follows from the recipe and the statements."""
        return round_table(self.asked, self.statements(run, names), rate)

    def masked(
        self, name: str, arrays: Arrays, table: SecureRound, run: int = 1, number: int = 1
    ) -> Arrays:
        """Order a round with a table from one hospital. Return its masked arrays."""
        order = TrainOrder(
            run=f"{run:012x}",
            round=number,
            recipe=self.asked.recipe,
            coefficients=table.coefficients[name],
            lr_factor=table.lr_factor,
            keep=(),
            secure=table,
        )
        return self.sites[name].ask("train", order, arrays).arrays

    def open(self, arrays: Arrays, table: SecureRound, masked: Sequence[Arrays]) -> Reply:
        """Add masked arrays and read the sum.

        Raises
        ------
        ValueError
            The masks do not cancel.
        """
        totals = add_masked(masked)
        layout = MetricLayout(self.asked, table.statements)
        numbers = layout.decode(from_words(totals.pop(METRICS)))
        point = fixed_point(table)
        found = {name: point.decode(total, arrays[name]) for name, total in totals.items()}
        return Reply({"losses": {}, "validation": numbers.means}, found)

    @property
    def truth(self) -> Any:
        """The patients of the first hospital."""
        return self.sites[self.name].truth

    @property
    def images(self) -> NDArray[np.float64]:
        """The training images of all hospitals; those of the first one come first."""
        return np.concatenate([site.images for site in self.sites.values()])

    @property
    def labels(self) -> NDArray[np.int64]:
        """The labels of the first hospital."""
        return self.sites[self.name].labels
