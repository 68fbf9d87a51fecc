"""Checks of the files of a kit and of the audit log."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

from client.deployment.check.base import Check
from mdmt.config import SiteConfig, load_site
from mdmt.deployment.kits import SiteKit
from mdmt.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

__all__ = ["check_audit_log", "check_ca", "check_key", "check_site_file", "read_private_key"]


def check_site_file(kit: SiteKit) -> tuple[Check, SiteConfig | None]:
    """Read ``site.yaml``, which must be of the site that the kit was made for."""
    name, file = "site.yaml", kit.site_file
    try:
        site = load_site(file)
    except ConfigError as error:
        return Check(name, "fail", str(error), "correct it"), None
    if site.name != kit.facts.name:
        found = f"{file}: name is {site.name}, but this kit is {kit.facts.name}'s"
        return Check(name, "fail", found, f"write name: {kit.facts.name}"), site
    return Check(name, "pass", f"site {site.name}, tasks {', '.join(site.tasks)}"), site


def read_private_key(kit: SiteKit) -> EllipticCurvePrivateKey:
    """Read the site's private key.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It contains no ECDSA key in OpenSSH format.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    try:
        key = load_ssh_private_key(kit.private_key.read_bytes(), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("not a private key in OpenSSH format") from error
    if not isinstance(key, EllipticCurvePrivateKey):
        raise ValueError("not an ECDSA key")
    return key


def check_key(kit: SiteKit) -> Check:
    """Check that the private key is one, and that only its owner can read it."""
    name, file = "private key", kit.private_key
    anew = "unpack the kit again, or ask the coordinator for a new one"
    try:
        read_private_key(kit)
        mode = stat.S_IMODE(file.stat().st_mode)
    except OSError as error:
        return Check(name, "fail", f"{file}: {error.strerror}", anew)
    except ValueError as error:
        return Check(name, "fail", f"{file}: {error}", anew)
    if mode & 0o077:
        return Check(name, "fail", f"{file}: others can read it", f"chmod 600 {file}")
    return Check(name, "pass", "readable by its owner only")


def check_ca(kit: SiteKit) -> Check:
    """Check that the certificate of the federation's CA is there."""
    from cryptography.x509 import load_pem_x509_certificate

    name, file = "CA certificate", kit.ca_certificate
    anew = "unpack the kit again, or ask the coordinator for ca.crt"
    try:
        load_pem_x509_certificate(file.read_bytes())
    except OSError as error:
        return Check(name, "fail", f"{file}: {error.strerror}", anew)
    except ValueError:
        return Check(name, "fail", f"{file}: not a certificate in PEM format", anew)
    return Check(name, "pass", "readable")


def check_audit_log(kit: SiteKit, site: SiteConfig) -> Check:
    """Check that the audit log was not changed: with a changed one the site sends nothing."""
    from client.deployment.audit import open_audit_log

    log = open_audit_log(kit, site)
    if problems := log.verify():
        remedy = f"mdmt site audit lists all; to begin anew, keep it and {kit.audit_head} elsewhere"
        return Check("audit log", "fail", f"{log.path}: {problems[0]}", remedy)
    return Check("audit log", "pass", "intact")
