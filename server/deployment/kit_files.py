"""What stands in the files of a kit: `provision` decides which are written."""

from __future__ import annotations

import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from mdmt import __version__
from mdmt.config import FederationConfig, SiteTask, TaskConfig, load_federation
from mdmt.deployment.kits import ServerKit, SiteFacts, split_address
from mdmt.errors import ConfigError
from mdmt.files import write_text, yaml_line

__all__ = [
    "federation_text",
    "server_files",
    "site_files",
    "write_flwr_config",
    "write_proxy_config",
]


def write_proxy_config(kit: ServerKit) -> None:
    """Write ``nginx.conf`` and make the folder that the proxy needs; the kit may be moved."""
    host, port = split_address(kit.facts.server)
    text = _render("nginx.conf", host=host, port=port, superlink_port=kit.facts.superlink_port)
    kit.run_folder.mkdir(exist_ok=True)
    write_text(kit.proxy_file, text)


def write_flwr_config(kit: ServerKit) -> None:
    """Write Flower's ``config.toml``; it names an absolute path, so a moved kit needs it anew."""
    text = _render(
        "flwr.toml",
        superlink_port=kit.facts.superlink_port,
        ca_certificate=str(kit.ca_certificate.resolve()),
    )
    write_text(kit.flwr_home / "config.toml", text)


def server_files(kit: ServerKit) -> dict[str, str]:
    """Files that a coordinator may change: name → text."""
    facts = kit.facts.model_dump()
    facts["port"] = split_address(kit.facts.server)[1]
    return {
        "start.sh": _render("start.sh", role="server"),
        "mdmt-server.service": _render("mdmt-server.service", **facts),
        "README.md": _render("README-server.md", version=__version__, **facts),
    }


def site_files(facts: SiteFacts, config: FederationConfig) -> dict[str, str]:
    """Files that a site's engineer fills in or may change: name → text.

    ``site.yaml`` has the tasks that `config` gives the site, or all where it does not name it.
    """
    known = facts.model_dump() | {"site": facts.name}
    own = config.sites[facts.name].tasks if facts.name in config.sites else config.tasks
    site_yaml = _render(
        "site.yaml",
        tasks=[_task(name, entry) for name, entry in own.items()],
        task_names=list(own),
        backbone=config.model.backbone,
        rounds=config.training.rounds,
        **known,
    )
    return {
        "site.yaml": site_yaml,
        "start.sh": _render("start.sh", role="site"),
        "mdmt-site.service": _render("mdmt-site.service", **known),
        "README.md": _render("README-site.md", **known),
    }


def _task(name: str, entry: SiteTask | TaskConfig) -> dict[str, Any]:
    """What ``site.yaml`` says of a task; a mirror is the federation's alone."""
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


def federation_text(path: Path, config: FederationConfig) -> str:
    """A federation's file without its `sites`, otherwise as its author wrote it.

    A relative path of weights becomes absolute, as the kit lies in another folder.

    Raises
    ------
    ConfigError
        What is left is not the same federation.
    """
    text = path.read_text(encoding="utf-8")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode), "it has been loaded before"
    edits = [*_cut(root, "sites", text), *_weights(root, config)]
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        try:
            write_text(copy, text)
            same = load_federation(copy).recipe == config.recipe
        except ConfigError:
            same = False
    if not same:
        raise ConfigError(
            f"{path}: cannot be told from its sites: write it in block style, with anchors that"
            " it shares with them outside sites"
        )
    return text.rstrip("\n") + "\n"


Edit = tuple[int, int, str]


def _cut(root: yaml.MappingNode, key: str, text: str) -> list[Edit]:
    """Take out a top-level key, up to the next one."""
    starts = [node.start_mark.index for node, _ in root.value] + [len(text)]
    names = [node.value for node, _ in root.value]
    if key not in names:
        return []
    place = names.index(key)
    return [(starts[place], starts[place + 1], "")]


def _weights(root: yaml.MappingNode, config: FederationConfig) -> list[Edit]:
    """Write a path of weights as it was resolved."""
    if not config.model.weights.endswith((".safetensors", ".pth", ".pt")):
        return []
    model = {key.value: value for key, value in root.value}["model"]
    scalar = {key.value: value for key, value in model.value}["weights"]
    return [(scalar.start_mark.index, scalar.end_mark.index, yaml_line(config.model.weights))]


def _render(template: str, /, **facts: Any) -> str:
    return _environment().get_template(f"{template}.j2").render(facts)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("server.deployment"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # YAML, TOML and shell: not HTML
    )
    environment.filters["yaml"] = yaml_line
    return environment
