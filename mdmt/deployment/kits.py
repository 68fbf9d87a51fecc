"""Kits: the folders that `mdmt provision` writes, one for the server and one for each site.

The files of a kit have fixed names. A command needs only the kit's folder.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError

from mdmt import __version__
from mdmt.errors import BadInput
from mdmt.strict import Name, Strict

KIT_FILE = "kit.json"
F = TypeVar("F", "SiteFacts", "ServerFacts")
Port = Annotated[int, Field(ge=1, le=65535)]
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DNS_NAME = re.compile(rf"({_LABEL}\.)*[A-Za-z]([A-Za-z0-9-]{{0,61}}[A-Za-z0-9])?")
"""RFC 1123. The last label starts with a letter: 10.0.0.300 is not a name."""


class _Facts(Strict):
    """What ``kit.json`` says of either kit."""

    format: Literal[3] = 3
    mdmt: str = __version__
    """The version that wrote the kit."""
    federation: Name
    server: str
    """``HOST:PORT`` that sites connect to: the proxy's address."""
    app: str
    """SHA-256 of the bundle that the coordinator's version submits."""


class SiteFacts(_Facts):
    """``kit.json`` of a site."""

    role: Literal["site"] = "site"
    name: Name
    """The name that the server registers; the site's file must give the same."""
    versions: dict[str, str]
    """The coordinator's versions of the packages that decide a result."""


class ServerFacts(_Facts):
    """``kit.json`` of the server."""

    role: Literal["server"] = "server"
    bind: str | None = None
    """IP address that the proxy listens on; all of the machine unless given."""
    superlink_port: Port
    """Of Flower's SuperLink, on 127.0.0.1 only: its Control and Runtime APIs have no login."""
    health_port: Port
    """Of its gRPC health service, on 127.0.0.1 only."""
    sites: tuple[Name, ...]
    """Every site that has a kit, whether its key is admitted or not."""


class _File:
    """A file or folder of a kit, by its name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, kit: SiteKit | ServerKit, owner: object) -> Path:
        return kit.folder / self.name


@dataclass(frozen=True)
class SiteKit:
    """A site's folder."""

    folder: Path
    facts: SiteFacts

    site_file = _File("site.yaml")
    """The hospital's configuration."""
    federation_file = _File("federation.yaml")
    """What the coordinator wants to run: `mdmt site approve` explains it."""
    weights = _File("weights")
    """Folder of the initial weights, if they are in a file. Its name is its SHA-256."""
    ca_certificate = _File("ca.crt")
    """PEM; the CA that signed the server's certificate."""
    private_key = _File("site.key")
    """The site's own key, ECDSA P-384, in OpenSSH format. `mdmt site join` makes it here."""
    audit_head = _File("audit-head.json")
    """The head of the audit log: its length and last hash. It is not in the folder of the log."""

    @property
    def request_file(self) -> Path:
        """The request to be admitted, which `mdmt site join` writes."""
        return self.folder / f"{self.facts.name}.request"


@dataclass(frozen=True)
class ServerKit:
    """The server's folder."""

    folder: Path
    facts: ServerFacts

    federation_file = _File("federation.yaml")
    """The configuration of the coordinator at the time of provisioning."""
    ca_certificate = _File("ca.crt")
    """PEM."""
    certificate = _File("server.crt")
    """PEM, for the name that sites connect to and those of the loopback."""
    private_key = _File("server.key")
    """PEM."""
    proxy_file = _File("nginx.conf")
    """The configuration of nginx."""
    flwr_home = _File("flwr")
    """Flower's own folder."""
    database = _File("superlink.db")
    """The SuperLink's database: registered sites and runs survive a restart."""
    submissions = _File("runs.json")
    """Which run directory belongs to which of Flower's runs."""
    runs = _File("runs")
    """Folder of the run directories. The server may have no write access to other folders."""
    run_folder = _File("run")
    """What the running proxy and SuperLink write: logs, pid, temporary files."""

    revoked_keys = _File("sites/revoked.keys")
    """The public keys that are never admitted again, one per line."""

    def public_key(self, site: str) -> Path:
        """The public key of `site`, in OpenSSH format; there is none until it is admitted."""
        return self.folder / "sites" / f"{site}.pub"

    @property
    def admitted(self) -> tuple[str, ...]:
        """The sites whose key is admitted."""
        return tuple(site for site in self.facts.sites if self.public_key(site).exists())


def split_address(address: str) -> tuple[str, int]:
    """Split ``HOST:PORT``. An IPv6 address needs brackets; the returned host has none.

    Raises
    ------
    BadInput
        It is not an address of this form.
    """
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    known = is_ip(bare) and (":" in bare) == (bare != host)
    named = bare == host and len(host) <= 253 and _DNS_NAME.fullmatch(host)
    if not (colon and (known or named) and port.isascii() and port.isdigit()):
        raise BadInput(
            f"{address}: expected HOST:PORT, such as fl.example.org:9092, 192.0.2.7:9092 or"
            " [2001:db8::7]:9092"
        )
    if not 1 <= int(port) <= 65535:
        raise BadInput(f"{address}: a port is a number from 1 to 65535")
    return bare, int(port)


def is_ip(text: str) -> bool:
    """Return True for an IPv4 or IPv6 address without a zone."""
    try:
        return ipaddress.ip_address(text) is not None and "%" not in text
    except ValueError:
        return False


def open_site_kit(folder: Path) -> SiteKit:
    """Open a site's kit.

    Raises
    ------
    BadInput
        The folder is not one.
    """
    return SiteKit(folder.resolve(), _read(folder, SiteFacts))


def open_server_kit(folder: Path) -> ServerKit:
    """Open the server's kit; see `open_site_kit`."""
    return ServerKit(folder.resolve(), _read(folder, ServerFacts))


def check_user(kit: ServerKit) -> None:
    """Refuse to write files as another user than the one that the server runs as.

    Raises
    ------
    BadInput
    """
    if kit.database.exists() and kit.database.stat().st_uid != os.geteuid():
        try:
            user = kit.database.owner()
        except KeyError:  # a container does not know its host's users
            user = f"user {kit.database.stat().st_uid}"
        raise BadInput(
            f"{kit.folder}: the server runs as {user}: run this command as {user} too, such as by"
            " sudo -u"
        )


def _read(folder: Path, kind: type[F]) -> F:
    role = kind.model_fields["role"].default
    try:
        found = json.loads((folder / KIT_FILE).read_text(encoding="utf-8"))
    except PermissionError as error:
        raise BadInput(f"{folder}: only the owner of this kit may use it") from error
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{folder}: not a {role}'s kit: give the folder that mdmt provision wrote"
        ) from error
    if isinstance(found, dict) and found.get("role") not in (None, role):
        raise BadInput(f"{folder}: this is a {found['role']}'s kit, not a {role}'s")
    if isinstance(found, dict) and found.get("format") != kind.model_fields["format"].default:
        wrote = found.get("mdmt", "0.1.0")  # which did not write its version
        raise BadInput(
            f"{folder}: mdmt {wrote} wrote this kit and mdmt {__version__} cannot use it: make new"
            " kits in another folder with mdmt provision, and give each site its own"
        )
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise BadInput(f"{folder / KIT_FILE}: {key}: {problem['msg']}") from error
