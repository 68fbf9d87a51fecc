"""Checks of the files of a kit, of the audit log, of the privacy ledger and of the dataset."""

from __future__ import annotations

import stat
from collections.abc import Callable

from client.budget import open_budget
from client.deployment.check.base import Check, Failed, Warned, check
from mdmt.config import SiteConfig, load_site
from mdmt.deployment.keys import read_certificate, read_key
from mdmt.deployment.kits import SiteKit
from mdmt.errors import ConfigError
from mdmt.privacy.accounting import epsilon
from mdmt.privacy.ledger import open_ledger

_ALL = "mdmt validate site.yaml lists all"
_CORRECT = "correct dataset in site.yaml, or its permissions"


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


@check("private key", "restore it from your backup, or delete it and run mdmt site join")
def check_key(kit: SiteKit) -> str:
    """Check that the private key is one, and that only its owner can read it."""
    file = kit.private_key
    if not file.exists():
        raise Failed("no key yet", f"run mdmt site join {kit.folder}")
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
        remedy = (
            f"mdmt site audit lists all; to start a new log, keep it and {kit.audit_head} elsewhere"
        )
        raise Failed(f"{log.path}: {problems[0]}", remedy)
    return "intact"


@check("approval", "mdmt site approve explains a recipe and approves it")
def check_approval(site: SiteConfig) -> str:
    """Check that a recipe is approved, and count the messages that are left for each one."""
    policy = site.policy
    if not policy.recipes:
        raise Warned("no recipe is approved: this site refuses every order")
    if policy.max_messages is None:
        return f"{len(policy.recipes)} recipes, without a limit of messages"
    budget, left = open_budget(site), {}
    for recipe in policy.recipes:
        left[recipe] = max(0, policy.max_messages - budget.spent(recipe))
    found = ", ".join(
        f"{number} of {policy.max_messages} messages left for recipe {recipe[:16]}"
        for recipe, number in left.items()
    )
    if not left[policy.recipes[-1]]:
        raise Warned(found, "raise policy.max_messages if more may be sent")
    return found


@check("privacy ledger", "see docs/differential-privacy.md")
def check_privacy_account(site: SiteConfig) -> str:
    """Check that the ledger is intact, and tell what was spent over all federations."""
    ledger, limit, delta = open_ledger(site), site.policy.max_epsilon, site.policy.delta
    entries = ledger.entries() if ledger.path.exists() else []
    spent = epsilon([entry.mechanism for entry in entries], delta)
    allowed = "no limit (policy.max_epsilon)" if limit is None else f"at most {limit:g}"
    return f"ε = {spent:.2f} spent in {len(entries)} trainings at δ = {delta:g}; {allowed}"


@check("dataset", _CORRECT)
def check_table(site: SiteConfig) -> str:
    """Read the table only."""
    from mdmt.data.readers import read_manifest

    return f"{len(read_manifest(site, 0))} images"


@check("dataset", _CORRECT)
def check_dataset(site: SiteConfig, progress: Callable[[int, int], None] | None = None) -> str:
    """Read the table and every image.

    Splits that the table does not give are drawn with seed 0: the federation's seed is not known
    before registration.
    """
    from mdmt.data.validation import validate_dataset

    report = validate_dataset(site, 0, progress=progress)
    images, patients = (sum(counts.values()) for counts in (report.images, report.patients))
    usable = f"{images} images of {patients} patients can be used"
    for kind, found in (("errors", report.errors), ("warnings", report.issues)):
        if found:
            text = f"{kind}: {len(found)}, first {found[0].where}: {found[0].message}"
            if kind == "errors":
                raise Failed(text, _ALL)
            raise Warned(f"{usable}; {text}", _ALL)
    return usable
