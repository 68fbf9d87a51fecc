"""Checks of the files of a kit and of the audit log."""

from __future__ import annotations

import stat

from client.deployment.check.base import Check, Failed, check
from mdmt.config import SiteConfig, load_site
from mdmt.deployment.keys import read_certificate, read_key
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


@check("private key", "unpack the kit again, or ask the coordinator for a new one")
def check_key(kit: SiteKit) -> str:
    """Check that the private key is one, and that only its owner can read it."""
    file = kit.private_key
    read_key(file, openssh=True)
    if stat.S_IMODE(file.stat().st_mode) & 0o077:
        raise Failed(f"{file}: others can read it", f"chmod 600 {file}")
    return "readable by its owner only"


@check("CA certificate", "unpack the kit again, or ask the coordinator for ca.crt")
def check_ca(kit: SiteKit) -> str:
    """Check that the certificate of the federation's CA is there."""
    read_certificate(kit.ca_certificate)
    return "readable"


@check("audit log")
def check_audit_log(kit: SiteKit, site: SiteConfig) -> str:
    """Check that the audit log was not changed: with a changed one the site sends nothing."""
    from client.deployment.audit import open_audit_log

    log = open_audit_log(kit, site)
    if problems := log.verify():
        remedy = f"mdmt site audit lists all; to begin anew, keep it and {kit.audit_head} elsewhere"
        raise Failed(f"{log.path}: {problems[0]}", remedy)
    return "intact"
