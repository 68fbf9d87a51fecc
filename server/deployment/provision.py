"""Provisioning: a CA, a kit for the server and one for every site.

No site's kit holds a private key: `mdmt site join` makes it at the hospital. A second run keeps the
keys of the CA and of the server and every file that somebody may have filled in, and adds what is
missing.
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
from mdmt.deployment.keys import new_key, read_certificate, read_key, write_key
from mdmt.deployment.kits import (
    KIT_FILE,
    ServerFacts,
    ServerKit,
    SiteFacts,
    SiteKit,
    is_ip,
    open_server_kit,
    split_address,
)
from mdmt.errors import BadInput
from mdmt.files import atomic_path, write_json, write_text
from server.deployment.bundle import app_hash
from server.deployment.certificates import certificate_pem, issue_ca, issue_server_certificate
from server.deployment.kit_files import (
    SUMS,
    checksums,
    federation_text,
    server_files,
    site_files,
    site_texts,
    weights_in_kit,
)
from server.deployment.proxy import write_proxy_config

PACKAGES = ("mdmt", "flwr", "torch", "timm")
"""Packages whose versions decide a result."""


class Provisioned(NamedTuple):
    """What was done with one folder."""

    what: str
    """``ca``, ``server``, or a site's name."""
    folder: Path
    done: Literal["made", "kept"]
    """Whether its key was made or kept; of a site, which has no key here, its ``site.yaml``."""
    saved: list[Path]
    """Copies of files that were overwritten."""


def provision(
    config: FederationConfig,
    source: Path,
    server: str,
    out: Path,
    sites: Sequence[str] = (),
    bind: str | None = None,
) -> list[Provisioned]:
    """Write the kits of a federation, or add to existing ones.

    Parameters
    ----------
    config : FederationConfig
    source : Path
        Its file; the kits get it without `sites`.
    server : str
        ``HOST:PORT`` that sites connect to. The SuperLink and its health service use the next two
        ports on the loopback.
    out : Path
        Gets the folders ``ca``, ``server`` and ``sites``.
    sites : sequence of str
        Names; those of `config` if none, and always those provisioned before.
    bind : str or None
        IP address of this machine that the proxy listens on; by default the one provisioned before,
        or all.

    Raises
    ------
    BadInput
        Nothing was written.
    """
    kit = ServerKit(out / "server", _server_facts(config, server, out, sites, bind))
    text = federation_text(source)
    ca_key, ca, authority = _ca(out / "ca", config.name)
    versions = {package: version(package) for package in PACKAGES}
    done = []
    for name in kit.facts.sites:
        facts = SiteFacts(
            name=name, federation=config.name, server=server, app=kit.facts.app, versions=versions
        )
        done.append(_site(SiteKit(out / "sites" / name, facts), config, source, ca))
    return [authority, _server(kit, text, ca_key, ca), *done]


def _server_facts(
    config: FederationConfig, server: str, out: Path, sites: Sequence[str], bind: str | None
) -> ServerFacts:
    """Compare the request with existing kits."""
    if bind is not None and not is_ip(bind):
        raise BadInput(f"--bind {bind}: give an IP address of this machine, such as 192.0.2.7")
    port = split_address(server)[1]
    if port > 65533:
        raise BadInput(f"{server}: choose a port up to 65533: the two next ones are needed too")
    earlier: tuple[str, ...] = ()
    if (out / "server" / KIT_FILE).exists():
        found = open_server_kit(out / "server").facts
        wanted = {"federation": config.name, "server": server}
        for what, now in wanted.items():
            if (before := getattr(found, what)) != now:
                raise BadInput(
                    f"{out}: these kits are for the {what} {before}, not {now}: choose another"
                    " --out for new kits"
                )
        earlier, bind = found.sites, bind or found.bind
    names = sorted({*earlier, *(sites or config.sites)})
    if not names:
        raise BadInput(f"{config.name} names no site: add --site NAME for each")
    try:
        return ServerFacts(
            federation=config.name,
            server=server,
            bind=bind,
            superlink_port=port + 1,
            health_port=port + 2,
            sites=tuple(names),
            app=app_hash(),
        )
    except ValidationError as error:
        name = error.errors()[0]["input"]
        raise BadInput(f"--site {name}: use up to 64 letters, digits, - and _") from error


def _ca(
    folder: Path, federation: str
) -> tuple[EllipticCurvePrivateKey, x509.Certificate, Provisioned]:
    file, private = folder / "ca.crt", folder / "ca.key"
    if file.exists() and not private.exists():
        raise BadInput(f"{private}: not there, and no site trusts another CA: put it back")
    key, made = _private_key(private)
    if made == "made" or not file.exists():
        write_text(file, certificate_pem(issue_ca(key, federation)))
    return key, read_certificate(file), Provisioned("ca", folder, made, [])


def _server(
    kit: ServerKit, federation: str, ca_key: EllipticCurvePrivateKey, ca: x509.Certificate
) -> Provisioned:
    """Write the server's kit; its certificate is renewed each time."""
    key, made = _private_key(kit.private_key)
    host = split_address(kit.facts.server)[0]
    write_text(kit.ca_certificate, certificate_pem(ca))
    write_text(kit.certificate, certificate_pem(issue_server_certificate(key, host, ca, ca_key)))
    write_proxy_config(kit)
    saved = _replace(kit.federation_file, federation)
    _add_missing(kit.folder, server_files(kit))
    # Last: the folder is a kit when it is complete.
    write_json(kit.folder / KIT_FILE, kit.facts.model_dump(mode="json"))
    return Provisioned("server", kit.folder, made, saved)


def _site(
    kit: SiteKit, config: FederationConfig, source: Path, ca: x509.Certificate
) -> Provisioned:
    """Write a site's kit. It holds no secret; the checksums are of what the site receives."""
    made: Literal["made", "kept"] = "kept" if kit.site_file.exists() else "made"
    _private_folder(kit.folder)
    write_text(kit.ca_certificate, certificate_pem(ca))
    if (weights := weights_in_kit(config)) and not (kit.folder / weights).exists():
        with atomic_path(kit.folder / weights) as temporary:
            shutil.copyfile(config.model.weights, temporary)
    fixed = site_texts(kit, federation_text(source, weights))
    filled_in = site_files(kit.facts, config)
    for name, text in fixed.items():
        write_text(kit.folder / name, text)
    _add_missing(kit.folder, filled_in)
    write_json(kit.folder / KIT_FILE, kit.facts.model_dump(mode="json"))
    names = [KIT_FILE, kit.ca_certificate.name, *fixed, *filled_in, *filter(None, [weights])]
    write_text(kit.folder / SUMS, checksums(kit.folder, names))
    return Provisioned(kit.facts.name, kit.folder, made, [])


def _private_key(file: Path) -> tuple[EllipticCurvePrivateKey, Literal["made", "kept"]]:
    """The key in `file`, drawn if there is none; only the owner can read its folder."""
    _private_folder(file.parent)
    if file.exists():
        return read_key(file), "kept"
    key = new_key()
    write_key(key, file)
    return key, "made"


def _private_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def _add_missing(folder: Path, files: Mapping[str, str]) -> None:
    """Write those files that are missing: a user may have changed the others."""
    for file, text in ((folder / name, text) for name, text in files.items()):
        if not file.exists():
            write_text(file, text)
            if file.suffix == ".sh":
                file.chmod(0o700)


def _replace(file: Path, text: str) -> list[Path]:
    """Write a file. Keep a former content that differs, and return the copies."""
    saved = []
    if file.exists() and file.read_text(encoding="utf-8") != text:
        number = 1
        while (backup := file.with_name(f"{file.name}.bak-{number}")).exists():
            number += 1
        saved.append(file.rename(backup))
    write_text(file, text)
    return saved
