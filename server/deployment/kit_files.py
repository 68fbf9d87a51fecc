"""The contents of a kit's files; `provision` decides which are written."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import yaml

from mdmt.config import FederationConfig, SiteTask, TaskConfig, read_yaml
from mdmt.config.model import content_name
from mdmt.deployment.kits import ServerKit, SiteFacts, SiteKit, split_address
from mdmt.deployment.usual_messages import usual_messages
from mdmt.files import render

SUMS = "SHA256SUMS"
"""The file of the checksums."""


def server_files(kit: ServerKit) -> dict[str, str]:
    """Files that a coordinator may change: name → text."""
    facts = kit.facts.model_dump() | {"port": split_address(kit.facts.server)[1]}
    return {
        "start.sh": _render("start.sh", **facts),
        "mdmt-server.service": _render("mdmt-server.service", **facts),
        "README.md": _render("README-server.md", **facts),
    }


def site_files(facts: SiteFacts, config: FederationConfig) -> dict[str, str]:
    """Files that a site's engineer fills in or may change: name → text.

    ``site.yaml`` has the tasks that `config` gives the site, or all where it does not name it.
    """
    own = config.sites[facts.name].tasks if facts.name in config.sites else config.tasks
    known = facts.model_dump() | {
        "site": facts.name,
        "tasks": [_task(name, entry) for name, entry in own.items()],
        "backbone": config.model.backbone,
        "rounds": config.training.rounds,
        "messages": usual_messages(config),
    }
    templates = ("site.yaml", "start.sh", "mdmt-site.service")
    return {template: _render(template, **known) for template in templates}


def site_texts(kit: SiteKit, federation: str) -> dict[str, str]:
    """Files of a site's kit that follow from the federation and the versions: name → text."""
    facts = kit.facts.model_dump() | {"site": kit.facts.name, "python": _python()}
    return {
        kit.federation_file.name: federation,
        "constraints.txt": constraints(),
        "README.md": _render("README-site.md", **facts),
    }


def constraints() -> str:
    """Every package that is installed here with its version, for ``pip install -c``.

    mdmt itself is installed from its wheel. A local part, such as ``+cu126``, says how a package
    was built: the site may need another build.
    """
    found = {d.name: d.version.partition("+")[0] for d in distributions() if d.name != "mdmt"}
    lines = [f"{name}=={found[name]}" for name in sorted(found, key=str.lower)]
    return "\n".join((f"# Installed at the coordinator, with Python {_python()}.", *lines, ""))


def checksums(folder: Path, names: Iterable[str]) -> str:
    """The SHA-256 of files, as ``sha256sum --check`` reads them."""
    digests = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])


def _task(name: str, entry: SiteTask | TaskConfig) -> dict[str, Any]:
    """Return the facts of a task for ``site.yaml``, without its mirror."""
    space = entry.space
    classes = space.labels if space.exclusive else ()
    return {
        "name": name,
        "space": space.model_dump(mode="json", exclude_none=True, exclude={"mirror"}),
        "columns": list(entry.columns) if isinstance(entry, SiteTask) else [],
        "values": entry.values if isinstance(entry, SiteTask) else {},
        "usual_columns": [column or name for column in space.columns],
        "likely_values": {str(i): label for i, label in enumerate(classes)} | {"9": ""},
    }


def federation_text(path: Path, weights: str = "") -> str:
    """A federation's keys without its `sites`; paths are absolute, as the kit lies elsewhere.

    `weights` is the place of a file of weights in a site's kit.
    """
    data = {key: value for key, value in read_yaml(path).items() if key != "sites"}
    if weights:
        data["model"]["weights"] = weights
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    return f"# {path.name} as it was provisioned, without its sites.\n{text}"


def weights_in_kit(config: FederationConfig) -> str:
    """Place of the file of weights in a site's kit; empty if `model.weights` is not a file.

    The file is named by its content, so that server and sites have the same recipe.
    """
    file = Path(config.model.weights)
    name = content_name(config.model.weights)
    if name == config.model.weights:
        return ""
    return f"weights/{name.removeprefix('sha256:')}{file.suffix}"


def _render(template: str, /, **facts: Any) -> str:
    return render("server.deployment", f"{template}.j2", **facts)
