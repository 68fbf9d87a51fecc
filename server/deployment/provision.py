"""Provisioning: a CA, a kit for the server and one for every site.

A second run keeps every private key and every file that somebody may have filled in, and adds what
is missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from pydantic import ValidationError

from mdmt.config import FederationConfig
from mdmt.deployment.keys import read_certificate, read_key
from mdmt.deployment.kits import (
    KIT_FILE,
    ServerFacts,
    ServerKit,
    SiteFacts,
    SiteKit,
    open_server_kit,
    split_address,
)
from mdmt.errors import BadInput
from mdmt.files import atomic_path, write_json, write_text
from server.deployment.bundle import app_hash
from server.deployment.certificates import (
    certificate_pem,
    issue_ca,
    issue_server_certificate,
    new_key,
    public_key_line,
    write_key,
)
from server.deployment.kit_files import (
    federation_text,
    server_files,
    site_files,
    weights_in_kit,
    write_proxy_config,
)

PACKAGES = ("mdmt", "flwr", "torch", "timm")
"""Packages whose versions decide a result."""

Key = Literal["made", "kept", "handed over"]
"""What was done with a private key; one that was handed over is only at the site."""


class Provisioned(NamedTuple):
    """What was done with one folder."""

    what: str
    """``ca``, ``server``, or a site's name."""
    folder: Path
    key: Key
    saved: list[Path]
    """Copies of files that were overwritten."""


def provision(
    config: FederationConfig,
    source: Path,
    server: str,
    out: Path,
    sites: Sequence[str] = (),
    *,
    force: bool = False,
) -> list[Provisioned]:
    """Write the kits of a federation, or add to existing ones.

    Parameters
    ----------
    config : FederationConfig
    source : Path
        Its file; the server's kit gets it without `sites`.
    server : str
        ``HOST:PORT`` that sites connect to. The SuperLink and its health service use the next two
        ports on the loopback.
    out : Path
        Gets the folders ``ca``, ``server`` and ``sites``.
    sites : sequence of str
        Names; those of `config` if none, and always those provisioned before.
    force : bool
        Make all keys anew and write every file anew; a file that differs is kept beside it.

    Raises
    ------
    BadInput
        Nothing was written.
    """
    kit = ServerKit(out / "server", _server_facts(config, server, out, sites, force))
    text = federation_text(source)
    ca_key, ca, authority = _ca(out / "ca", config.name, force)
    versions = {package: version(package) for package in PACKAGES}
    done = []
    for name in kit.facts.sites:
        facts = SiteFacts(
            name=name, federation=config.name, server=server, app=kit.facts.app, versions=versions
        )
        site = SiteKit(out / "sites" / name, facts)
        made = _site(site, kit.public_key(name), config, ca, force)
        done.append(made._replace(saved=[*made.saved, *_recipe(site, config, source)]))
    return [authority, _server(kit, text, ca_key, ca, force), *done]


def _server_facts(
    config: FederationConfig, server: str, out: Path, sites: Sequence[str], force: bool
) -> ServerFacts:
    """Compare the request with existing kits."""
    port = split_address(server)[1]
    if port > 65533:
        raise BadInput(f"{server}: choose a port up to 65533: the two next ones are needed too")
    earlier: tuple[str, ...] = ()
    if (out / "server" / KIT_FILE).exists():
        found = open_server_kit(out / "server").facts
        wanted = {"federation": config.name, "server": server}
        for what, now in wanted.items():
            if (before := getattr(found, what)) != now and not force:
                raise BadInput(
                    f"{out}: these kits are for the {what} {before}, not {now}: choose another"
                    " --out, or --force to make all of them, and their keys, anew"
                )
        earlier = found.sites if found.federation == config.name else ()
    names = sorted({*earlier, *(sites or config.sites)})
    if not names:
        raise BadInput(f"{config.name} names no site: add --site NAME for each")
    ports = {"superlink_port": port + 1, "health_port": port + 2}
    try:
        return ServerFacts(
            federation=config.name, server=server, sites=tuple(names), app=app_hash(), **ports
        )
    except ValidationError as error:
        name = error.errors()[0]["input"]
        raise BadInput(f"--site {name}: use up to 64 letters, digits, - and _") from error


def _ca(
    folder: Path, federation: str, force: bool
) -> tuple[EllipticCurvePrivateKey, x509.Certificate, Provisioned]:
    file, private = folder / "ca.crt", folder / "ca.key"
    if file.exists() and not private.exists() and not force:
        raise BadInput(f"{private}: not there, and no site trusts another CA: put it back")
    key, made = _private_key(private, force)
    if made == "made" or not file.exists():
        write_text(file, certificate_pem(issue_ca(key, federation)))
    return key, read_certificate(file), Provisioned("ca", folder, made, [])


def _server(
    kit: ServerKit,
    federation: str,
    ca_key: EllipticCurvePrivateKey,
    ca: x509.Certificate,
    force: bool,
) -> Provisioned:
    """Write the server's kit; its certificate is renewed each time."""
    key, made = _private_key(kit.private_key, force)
    host = split_address(kit.facts.server)[0]
    write_text(kit.ca_certificate, certificate_pem(ca))
    write_text(kit.certificate, certificate_pem(issue_server_certificate(key, host, ca, ca_key)))
    write_proxy_config(kit)
    saved = _place(kit.folder, {kit.federation_file.name: federation}, anew=True)
    saved += _place(kit.folder, server_files(kit), anew=force)
    # Last: the folder is a kit when it is complete.
    write_json(kit.folder / KIT_FILE, kit.facts.model_dump(mode="json"))
    return Provisioned("server", kit.folder, made, saved)


def _site(
    kit: SiteKit, public: Path, config: FederationConfig, ca: x509.Certificate, force: bool
) -> Provisioned:
    """Write a site's kit, and its public key into the server's kit.

    If the kit was handed over with its key, only ``kit.json`` is written here: an upgrade changes
    it.
    """
    write_json(kit.folder / KIT_FILE, kit.facts.model_dump(mode="json"))
    if public.exists() and not kit.private_key.exists() and not force:
        return Provisioned(kit.facts.name, kit.folder, "handed over", [])
    key, made = _private_key(kit.private_key, force, openssh=True)
    write_text(kit.ca_certificate, certificate_pem(ca))
    saved = _place(kit.folder, site_files(kit.facts, config), anew=force)
    write_text(public, public_key_line(key, kit.facts.name))
    return Provisioned(kit.facts.name, kit.folder, made, saved)


def _recipe(kit: SiteKit, config: FederationConfig, source: Path) -> list[Path]:
    """Write what the site approves: the federation's file, and the weights if they are in a file.

    A kit that was handed over gets it too, because the federation may have changed.
    """
    weights = weights_in_kit(config)
    if weights and not (kit.folder / weights).exists():
        with atomic_path(kit.folder / weights) as temporary:
            shutil.copyfile(config.model.weights, temporary)
    files = {kit.federation_file.name: federation_text(source, weights)}
    return _place(kit.folder, files, anew=True)


def _private_key(
    file: Path, force: bool, *, openssh: bool = False
) -> tuple[EllipticCurvePrivateKey, Key]:
    """The key in `file`, drawn if there is none; only the owner can read its folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.parent.chmod(0o700)
    if file.exists() and not force:
        return read_key(file, openssh=openssh), "kept"
    key = new_key()
    write_key(key, file, openssh=openssh)
    return key, "made"


def _place(folder: Path, files: Mapping[str, str], *, anew: bool) -> list[Path]:
    """Write the files that a user may have changed, if they are missing or `anew`.

    Returns
    -------
    list of Path
        Copies of former contents that differ.
    """
    saved = []
    for file, text in ((folder / name, text) for name, text in files.items()):
        if file.exists():
            if not anew or file.read_text(encoding="utf-8") == text:
                continue
            number = 1
            while (backup := file.with_name(f"{file.name}.bak-{number}")).exists():
                number += 1
            saved.append(file.rename(backup))
        write_text(file, text)
        if file.suffix == ".sh":
            file.chmod(0o700)
    return saved
