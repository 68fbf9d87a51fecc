"""Checks of the machine: versions, device, disk."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from client.deployment.check.base import Check
from mdmt.config import SiteConfig
from mdmt.errors import ConfigError

__all__ = ["check_device", "check_folder", "check_versions"]

GB = 10**9
LITTLE = 2 * GB
"""Bytes. A model with its optimiser, activations and the state of a few rounds needs more."""
_PROBE = bytes(1 << 20)
_MUST_MATCH = {"mdmt", "flwr"}
"""These decide the messages; the others change only numbers."""


def check_versions(expected: Mapping[str, str]) -> Check:
    """Compare what is installed with the coordinator's versions."""
    wrong = {name for name, wanted in expected.items() if _installed(name) != wanted}
    found = ", ".join(
        f"{name} {_installed(name)}" + (f" where the server has {wanted}" if name in wrong else "")
        for name, wanted in expected.items()
    )
    if not wrong:
        return Check("versions", "pass", found)
    # mdmt comes from the coordinator: in a package index the name may belong to somebody else.
    wanted = " ".join(
        f"mdmt-{expected[name]}-py3-none-any.whl" if name == "mdmt" else f"{name}=={expected[name]}"
        for name in expected
        if name in wrong
    )
    must = wrong & _MUST_MATCH
    return Check("versions", "fail" if must else "warn", found, f"pip install {wanted}")


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "is not installed"


def check_device(site: SiteConfig) -> Check:
    """Check that the device is there and how much memory it has."""
    import torch

    from mdmt.training import resolve_device

    try:
        device = resolve_device(site.device)
    except ConfigError:
        found = f"{site.device} is not there: PyTorch sees {torch.cuda.device_count() or 'no'} GPU"
        remedy = "check that nvidia-smi lists it, or write device: auto or cpu in site.yaml"
        return Check("device", "fail", found, remedy)
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
        return Check("device", "warn", f"{found}: little for training", remedy)
    return Check("device", "pass", found)


def check_folder(key: str, folder: Path) -> Check:
    """Check that a folder is writable and has space; create it if it is missing."""
    elsewhere = f"or name another folder as {key} in site.yaml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(_PROBE)
            probe.flush()
            os.fsync(probe.fileno())
        free = shutil.disk_usage(folder).free
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return Check(key, "fail", f"{folder}: the disk is full", f"free space, {elsewhere}")
        remedy = f"let this user write there, {elsewhere}"
        return Check(key, "fail", f"{folder}: cannot be written to: {error.strerror}", remedy)
    found = f"{folder}, {free / GB:.1f} GB free"
    if free < LITTLE:
        return Check(key, "warn", f"{found}: little", f"free some, {elsewhere}")
    return Check(key, "pass", found)
