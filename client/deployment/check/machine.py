"""Checks of the machine: versions, device, disk."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from client.deployment.check.base import Check, Failed, Warned, check
from mdmt.config import SiteConfig
from mdmt.errors import ConfigError

GB = 10**9
LITTLE = 2 * GB
"""Bytes. A model with its optimiser, activations and the state of a few rounds needs more."""
_PROBE = bytes(1 << 20)
_MUST_MATCH = {"mdmt", "flwr"}
"""These decide the messages; the others change only numbers."""


@check("versions")
def check_versions(expected: Mapping[str, str]) -> str:
    """Compare what is installed with the coordinator's versions."""
    wrong = [name for name, wanted in expected.items() if _installed(name) != wanted]
    found = ", ".join(
        f"{name} {_installed(name)}" + (f" where the server has {wanted}" if name in wrong else "")
        for name, wanted in expected.items()
    )
    if not wrong:
        return found
    # mdmt comes from the coordinator: in a package index the name may belong to somebody else.
    pins = {name: f"{name}=={expected[name]}" for name in wrong}
    if "mdmt" in pins:
        pins["mdmt"] = f"mdmt-{expected['mdmt']}-py3-none-any.whl"
    kind = Failed if _MUST_MATCH & pins.keys() else Warned
    raise kind(found, f"pip install {' '.join(pins.values())}")


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "is not installed"


@check("device")
def check_device(site: SiteConfig) -> str:
    """Check that the device is there and how much memory it has."""
    import torch

    from mdmt.training import resolve_device

    try:
        device = resolve_device(site.device)
    except ConfigError as error:
        found = f"{site.device} is not there: PyTorch sees {torch.cuda.device_count() or 'no'} GPU"
        remedy = "check that nvidia-smi lists it, or write device: auto or cpu in site.yaml"
        raise Failed(found, remedy) from error
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        kind = torch.cuda.get_device_name(device)
        found = f"{device}, {kind}, {free / GB:.1f} of {total / GB:.1f} GB free"
        remedy = "check in nvidia-smi which processes use it, or agree on a smaller batch size"
    else:
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        found = f"{device}, {os.cpu_count()} cores, {free / GB:.1f} GB of memory"
        remedy = "give the machine more memory"
    if free < LITTLE:
        raise Warned(f"{found}: little for training", remedy)
    return found


def check_folder(key: str, folder: Path) -> Check:
    """Check that a folder is writable and has space; create it if it is missing."""
    return check(key)(_try_folder)(folder, f"or name another folder as {key} in site.yaml")


def _try_folder(folder: Path, elsewhere: str) -> str:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(_PROBE)
            probe.flush()
            os.fsync(probe.fileno())
        free = shutil.disk_usage(folder).free
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Failed(f"{folder}: the disk is full", f"free space, {elsewhere}") from error
        found = f"{folder}: cannot be written to: {error.strerror}"
        raise Failed(found, f"let this user write there, {elsewhere}") from error
    found = f"{folder}, {free / GB:.1f} GB free"
    if free < LITTLE:
        raise Warned(f"{found}: little", f"free some, {elsewhere}")
    return found
