"""The privacy account of a site: its secret and its ledger, both in its state folder.

A round has an *identity*: the hash of everything that decides its gradients, and of the secret.
The secret and the identity give all random numbers. So a repeated order with the same data and the
same start gives the same bits and spends nothing; if anything differs, the random numbers are
independent and the ledger is charged again.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mdmt import __version__
from mdmt.config import FederationConfig, SiteConfig
from mdmt.data.cohort import Cohort
from mdmt.errors import StateError
from mdmt.messages import TrainOrder, order_hash
from mdmt.privacy.accounting import Mechanism
from mdmt.privacy.ledger import LEDGER, open_ledger
from mdmt.privacy.noise import NoiseSource

SECRET_BYTES = 32


@dataclass(frozen=True)
class PrivacyAccount:
    """The account of a site, for one order.

    Parameters
    ----------
    site : SiteConfig
    order : str
        Hash of the order.
    recipe : str
        Hash of the recipe.
    """

    site: SiteConfig
    order: str
    recipe: str

    def spend(self, mechanism: Mechanism, data: str, start: str) -> NoiseSource:
        """Charge the ledger for a training. Return its random numbers.

        Parameters
        ----------
        mechanism : Mechanism
        data : str
            `training_hash`.
        start : str
            `tensor_hash` of everything that the training starts from.

        Raises
        ------
        PolicyError, StateError, OSError
            See `Ledger.charge`. Nothing may be trained.
        """
        secret = site_secret(self.site.state_root)
        facts = [
            self.order,
            data,
            start,
            _environment(),
            hmac.digest(secret, b"id", "sha256").hex(),
        ]
        identity = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
        open_ledger(self.site).charge(
            mechanism, self.site.policy, order=self.order, recipe=self.recipe, identity=identity
        )
        return NoiseSource(secret, identity)


def open_account(
    site: SiteConfig, federation: FederationConfig, order: TrainOrder, blob: bytes
) -> PrivacyAccount:
    """Return the account for an order: its hash is the same in every engine.

    The table of secure aggregation is not in the hash: it decides the masks, and no gradient.
    """
    text = order.model_copy(update={"secure": None}).model_dump_json()
    return PrivacyAccount(site, order_hash("train", text, blob), federation.hash)


def site_secret(folder: Path) -> bytes:
    """Return the secret of a site. Without one, make it and an empty ledger, with mode 0600.

    Raises
    ------
    StateError
        The file is not a secret, or other users can read it.
    """
    path = folder / "dp.secret"
    if not path.exists():
        _make_secret(path)
    if path.stat().st_mode & 0o077:
        raise StateError(f"{path}: other users can read it; run: chmod 600 {path}")
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise StateError(f"{path}: has {len(secret)} bytes, not {SECRET_BYTES}; delete this file")
    return secret


def _make_secret(path: Path) -> None:
    """Write a new secret, unless another process is faster."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ledger = path.with_name(LEDGER)
    os.close(os.open(ledger, os.O_CREAT | os.O_RDWR, 0o600))
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".dp.secret.")  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_bytes(SECRET_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        Path(temporary).unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def training_hash(cohort: Cohort, indices: NDArray[np.intp]) -> str:
    """Return the SHA-256 of the pixels, labels and patients at `indices`, in this order."""
    digest = hashlib.sha256(np.ascontiguousarray(cohort.pixels[indices]).data)
    digest.update(json.dumps(cohort.manifest.patients[indices].tolist()).encode())
    for task, targets in sorted(cohort.manifest.targets.items()):
        digest.update(json.dumps([task, targets.shape[1]]).encode())
        digest.update(np.ascontiguousarray(targets[indices]).data)
    return digest.hexdigest()


def tensor_hash(*groups: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors and of the kind of their device."""
    digest = hashlib.sha256()
    for group in groups:
        digest.update(len(group).to_bytes(8))
        for name, tensor in sorted(group.items()):
            array = tensor.detach().cpu().contiguous().numpy()
            facts = [name, tensor.device.type, str(array.dtype), array.shape]
            digest.update(json.dumps(facts).encode() + array.tobytes())
    return digest.hexdigest()


def _environment() -> str:
    """Return what decides how gradients are rounded.

    The same noise under differently rounded gradients would reveal the rounding errors.
    """
    threads, capability = torch.get_num_threads(), torch.backends.cpu.get_cpu_capability()
    return json.dumps([__version__, torch.__version__, threads, capability])
