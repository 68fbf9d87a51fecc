"""Secure aggregation at a site: its key and statement, the checks of a round, the masked update."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from numpy.typing import NDArray

from client.secure_checks import check_cohort, check_table
from client.secure_store import SecureStore
from mdmt.blob import Arrays, pack, unpack
from mdmt.config import FederationConfig, SiteConfig
from mdmt.deployment.keys import new_key, read_key, write_key
from mdmt.errors import PolicyError, RunError
from mdmt.messages import KeyStatement, SecureRound, TrainOrder, TrainReport
from mdmt.privacy.masking import PIECE, Masks, pair_secrets
from mdmt.privacy.metric_sums import METRICS, MetricLayout, as_words
from mdmt.privacy.statements import sign_statement
from mdmt.privacy.tables import fixed_point, part_of, transcript


def secure_store(site: SiteConfig, federation: FederationConfig, run: str) -> SecureStore:
    """Return the files of a site for secure aggregation in one run."""
    return SecureStore(site.state_root / federation.name / run / "secure")


def key_statement(
    site: SiteConfig,
    federation: FederationConfig,
    run: str,
    counts: Mapping[str, int | None],
    signing_key: Path | None,
) -> KeyStatement:
    """Return the statement of a site in a run. A repeated order gets the same statement.

    Parameters
    ----------
    site : SiteConfig
    federation : FederationConfig
    run : str
    counts : mapping of str to int or None
        n_{s,t} by task, as in the site card.
    signing_key : Path or None
        The private key of a deployed site. A simulated site makes one in its state folder.
    """
    store = secure_store(site, federation, run)
    if (known := store.statement()) is not None:
        return known
    statement = sign_statement(
        _signing_key(site, signing_key),
        store.new_key().public_key(),
        name=site.name,
        recipe=federation.hash,
        run=run,
        counts=dict(counts),
    )
    store.write_statement(statement)
    return statement


def _signing_key(site: SiteConfig, path: Path | None) -> EllipticCurvePrivateKey:
    if path is not None:
        return read_key(path, openssh=True)
    path = site.state_root / "signing.key"
    if not path.exists():
        write_key(new_key(), path, openssh=True)
    return read_key(path, openssh=True)


@dataclass(frozen=True)
class SecureAnswer:
    """One round of a site under secure aggregation, after all checks of its order.

    Attributes
    ----------
    site : SiteConfig
    federation : FederationConfig
    order : TrainOrder
    table : SecureRound
    transcript : bytes
        T of the round.
    store : SecureStore
    """

    site: SiteConfig
    federation: FederationConfig
    order: TrainOrder
    table: SecureRound
    transcript: bytes
    store: SecureStore

    def stored(self) -> tuple[TrainReport, bytes] | None:
        """Return the answer that this order got earlier; see `SecureStore.answer`."""
        return self.store.answer(self.order.round, self.transcript)

    def seal(
        self,
        report: TrainReport,
        trained: Arrays,
        sent: bytes,
        names: Collection[str],
        started: float,
    ) -> tuple[TrainReport, bytes]:
        """Mask an update and the metrics of a report, and write the answer to the disk.

        Parameters
        ----------
        report : TrainReport
            With the values that the policy does not withhold.
        trained : mapping of str to ndarray, float32
            The arrays of the update. An array that the site does not have, or that has no weight
            here, enters the sum as zeros.
        sent : bytes
            The arrays that the site received, encoded.
        names : collection of str
            The arrays of the sum.
        started : float
            Monotonic time when the site started the order.

        Returns
        -------
        TrainReport
            Without numbers besides seconds.
        bytes
            The masked arrays and the masked metrics.

        Raises
        ------
        RunError
            The update is not finite.
        """
        statements = self.table.statements
        keys = {name: of.key for name, of in statements.items()}
        secrets = pair_secrets(self.site.name, self.store.key(), keys)
        masks = Masks(self.site.name, secrets, self.transcript)
        masked: dict[str, NDArray[np.uint32]] = {}
        clipped = 0
        received = unpack(sent)
        for name in names:
            masked[name], more = self._mask(masks, name, trained.get(name), received[name])
            clipped += more
        numbers = MetricLayout(self.federation, statements).encode(report.validation, clipped)
        masks.of(METRICS).apply(numbers)
        masked[METRICS] = as_words(numbers)
        silent = TrainReport(
            site=report.site,
            round=report.round,
            validation={},
            losses={},
            images=None,
            steps=None,
            seconds=time.monotonic() - started,
            new_memory=report.new_memory,
        )
        blob = pack(masked)
        self.store.keep(self.order.round, self.transcript, silent, blob)
        return silent, blob

    def _mask(
        self,
        masks: Masks,
        name: str,
        trained: NDArray[np.float32] | None,
        received: NDArray[np.float32],
    ) -> tuple[NDArray[np.uint32], int]:
        """Return a masked array, and how many of its numbers were clipped."""
        weight = self.table.weights[self.site.name].get(part_of(name), 0.0)
        point, mask = fixed_point(self.table), masks.of(name)
        result, clipped = np.zeros(received.shape, np.uint32), 0
        flat, before = result.reshape(-1), received.reshape(-1)
        after = None if trained is None or weight == 0 else trained.reshape(-1)
        for start in range(0, flat.size, PIECE):
            piece = slice(start, start + PIECE)
            if after is not None:
                try:
                    clipped += point.encode(after[piece], before[piece], weight, flat[piece])
                except ValueError as error:
                    raise RunError(
                        f"the update of {name} is {error}: the training failed"
                    ) from error
            mask.apply(flat[piece])
        return result, clipped


def open_round(
    site: SiteConfig, federation: FederationConfig, order: TrainOrder, blob: bytes
) -> SecureAnswer | None:
    """Check an order against what a round of secure aggregation must be.

    Parameters
    ----------
    site : SiteConfig
    federation : FederationConfig
    order : TrainOrder
    blob : bytes
        The arrays of the order, encoded.

    Returns
    -------
    SecureAnswer or None
        None if the federation does not use secure aggregation.

    Raises
    ------
    PolicyError
        The table of the order is not the one that follows from the recipe and from the signed
        counts of known sites.
    """
    table = order.secure
    if not federation.privacy.secure_aggregation:
        if table is not None:
            raise PolicyError("the order has a table of secure aggregation, the recipe has none")
        return None
    if table is None:
        raise PolicyError("the recipe asks for secure aggregation, the order has no table for it")
    store = secure_store(site, federation, order.run)
    check_cohort(site, federation, order, table, store)
    check_table(site, federation, order, table)
    agreed = transcript(federation.hash, order.run, order.round, blob, table, order.frozen)
    return SecureAnswer(site, federation, order, table, agreed, store)
