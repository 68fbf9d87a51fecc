"""Kits: the folders that `mdmt provision` writes, one for the server and one for each site.

The files of a kit have fixed names, so that commands need nothing but its folder.
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

from mdmt.config.types import Name
from mdmt.errors import BadInput
from mdmt.strict import Strict

__all__ = [
    "KIT_FILE",
    "ServerFacts",
    "ServerKit",
    "SiteFacts",
    "SiteKit",
    "check_user",
    "open_server_kit",
    "open_site_kit",
    "split_address",
]

KIT_FILE = "kit.json"
F = TypeVar("F", "SiteFacts", "ServerFacts")
Port = Annotated[int, Field(ge=1, le=65535)]
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DNS_NAME = re.compile(rf"({_LABEL}\.)*[A-Za-z]([A-Za-z0-9-]{{0,61}}[A-Za-z0-9])?")
"""RFC 1123; the last label starts with a letter, so that 10.0.0.300 is no name."""


class SiteFacts(Strict):
    """``kit.json`` of a site."""

    format: Literal[1] = 1
    role: Literal["site"] = "site"
    name: Name
    """As the server registers it; the site's file must say the same."""
    federation: Name
    server: str
    """``HOST:PORT`` that the site connects to."""
    app: str
    """SHA-256 of the bundle the coordinator's version submits."""
    versions: dict[str, str]
    """The coordinator's, of what decides a result."""


class ServerFacts(Strict):
    """``kit.json`` of the server."""

    format: Literal[1] = 1
    role: Literal["server"] = "server"
    federation: Name
    server: str
    """``HOST:PORT`` that sites connect to: the proxy's."""
    superlink_port: Port
    """Of Flower's SuperLink, on 127.0.0.1 only: its Control and Runtime APIs have no login."""
    health_port: Port
    """Of its gRPC health service, on 127.0.0.1 only."""
    sites: tuple[Name, ...]
    app: str


@dataclass(frozen=True)
class SiteKit:
    """A site's folder."""

    folder: Path
    facts: SiteFacts

    @property
    def site_file(self) -> Path:
        """The hospital's configuration."""
        return self.folder / "site.yaml"

    @property
    def ca_certificate(self) -> Path:
        """PEM; what the server's certificate must descend from."""
        return self.folder / "ca.crt"

    @property
    def private_key(self) -> Path:
        """The site's own, ECDSA P-384, in OpenSSH format."""
        return self.folder / "site.key"

    @property
    def audit_head(self) -> Path:
        """Where the site's audit log has to end; apart from the log in its state folder."""
        return self.folder / "audit-head.json"


@dataclass(frozen=True)
class ServerKit:
    """The server's folder."""

    folder: Path
    facts: ServerFacts

    @property
    def federation_file(self) -> Path:
        """The coordinator's configuration as it was provisioned."""
        return self.folder / "federation.yaml"

    @property
    def ca_certificate(self) -> Path:
        """PEM."""
        return self.folder / "ca.crt"

    @property
    def certificate(self) -> Path:
        """PEM, with the names sites connect to and those of the loopback."""
        return self.folder / "server.crt"

    @property
    def private_key(self) -> Path:
        """PEM."""
        return self.folder / "server.key"

    @property
    def proxy_file(self) -> Path:
        """What nginx reads."""
        return self.folder / "nginx.conf"

    @property
    def flwr_home(self) -> Path:
        """Flower's own folder: ``config.toml`` names the SuperLink ``mdmt``."""
        return self.folder / "flwr"

    @property
    def database(self) -> Path:
        """The SuperLink's: registered sites and runs survive its restart."""
        return self.folder / "superlink.db"

    @property
    def submissions(self) -> Path:
        """Which run directory belongs to which of Flower's runs."""
        return self.folder / "runs.json"

    @property
    def runs(self) -> Path:
        """Where run directories go: the server may have nowhere else to write to."""
        return self.folder / "runs"

    @property
    def run_folder(self) -> Path:
        """What the running proxy writes: its pid, what it refused, temporary files."""
        return self.folder / "run"

    def public_key(self, site: str) -> Path:
        """What `site` proves itself with, in OpenSSH format."""
        return self.folder / "sites" / f"{site}.pub"


def split_address(address: str) -> tuple[str, int]:
    """Split ``HOST:PORT``; an IPv6 address stands in brackets, which the host given back has not.

    Raises
    ------
    BadInput
        It is not one.
    """
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    known = _is_ip(bare) and (":" in bare) == (bare != host)
    named = bare == host and len(host) <= 253 and _DNS_NAME.fullmatch(host)
    if not (colon and (known or named) and port.isascii() and port.isdigit()):
        raise BadInput(
            f"{address}: expected HOST:PORT, such as fl.example.org:9092, 192.0.2.7:9092 or"
            " [2001:db8::7]:9092"
        )
    if not 1 <= int(port) <= 65535:
        raise BadInput(f"{address}: a port is a number from 1 to 65535")
    return bare, int(port)


def _is_ip(text: str) -> bool:
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
    """Refuse to write as one user what the server has to read or go on with as another.

    Raises
    ------
    BadInput
    """
    if kit.database.exists() and kit.database.stat().st_uid != os.geteuid():
        try:
            user = kit.database.owner()
        except KeyError:  # a container does not know the users of its host
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
        raise BadInput(f"{folder}: only the user that it belongs to may use this kit") from error
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{folder}: not a {role}'s kit: give the folder that mdmt provision wrote"
        ) from error
    if isinstance(found, dict) and found.get("role") not in (None, role):
        raise BadInput(f"{folder}: this is a {found['role']}'s kit, not a {role}'s")
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise BadInput(f"{folder / KIT_FILE}: {key}: {problem['msg']}") from error
