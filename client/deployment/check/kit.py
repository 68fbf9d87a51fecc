"""Checks of a kit's own files, and of the log that it keeps the head of."""

from __future__ import annotations

import stat

from client.deployment.check.base import Check
from mdmt.config import SiteConfig, load_site
from mdmt.deployment.kits import SiteKit
from mdmt.errors import ConfigError

__all__ = ["check_audit_log", "check_ca", "check_key", "check_site_file"]


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


def check_key(kit: SiteKit) -> Check:
    """Check that the private key is one, and its owner's alone."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key

    name, file = "private key", kit.private_key
    anew = "unpack the kit again, or ask the coordinator for a new one"
    try:
        mode = stat.S_IMODE(file.stat().st_mode)
        key = load_ssh_private_key(file.read_bytes(), None)
    except OSError as error:
        return Check(name, "fail", f"{file}: {error.strerror}", anew)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return Check(name, "fail", f"{file}: not a private key in OpenSSH format", anew)
    if not isinstance(key, EllipticCurvePrivateKey):
        return Check(name, "fail", f"{file}: not an ECDSA key", anew)
    if mode & 0o077:
        return Check(name, "fail", f"{file}: others can read it", f"chmod 600 {file}")
    return Check(name, "pass", "readable by its owner only")


def check_ca(kit: SiteKit) -> Check:
    """Check that the certificate is there which the server is known by."""
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
    """Check that the audit log is what was written: on another one nothing would be sent."""
    from client.deployment.audit import open_audit_log

    log = open_audit_log(kit, site)
    if problems := log.verify():
        remedy = f"mdmt site audit lists all; to begin anew, keep it and {kit.audit_head} elsewhere"
        return Check("audit log", "fail", f"{log.path}: {problems[0]}", remedy)
    return Check("audit log", "pass", "intact")
