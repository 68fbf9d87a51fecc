"""Read YAML files as typed configuration. An error is one line with file, key and value."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from mdmt import __version__
from mdmt.config.explain import explain, one_line, yaml_problem
from mdmt.config.federation import FederationConfig
from mdmt.config.renamed import SAVED, upgrade
from mdmt.config.site import SiteConfig
from mdmt.errors import ConfigError, PolicyError
from mdmt.files import write_text
from mdmt.nearest import nearest
from mdmt.strict import named

M = TypeVar("M", bound=BaseModel)
_WRITTEN_BY = "# Written by mdmt "
_VARIABLE = re.compile(r"\$\{(\w+)\}")


class _UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses a repeated key, such as two sites with the same name."""


def _mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    mapping = loader.construct_mapping(node, deep=True)
    seen: set[Any] = set()
    for key_node in own:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.MarkedYAMLError(
                problem=f"the key {key} is given twice", problem_mark=key_node.start_mark
            )
        seen.add(key)
    return mapping


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def find_config(name: str | Path, folder: str = "") -> Path:
    """Find a configuration file by its path, or by the name of one in the package.

    Parameters
    ----------
    name : str or Path
    folder : str
        Its folder in ``configs`` of the package: ``study`` for studies.

    Raises
    ------
    ConfigError
        There is no such file. The message lists the names in the package.
    """
    path = Path(name)
    if path.is_file():
        return path
    package = Path(__file__).parents[1]
    folders = (package / "configs", package.parent / "configs")
    shipped = next((folder for folder in folders if folder.is_dir()), None)
    files = sorted((shipped / folder).glob("*.yaml")) if shipped else []
    names = {file.stem: file for file in files}
    if str(name) in names:
        return names[str(name)]
    if path.is_dir():
        raise ConfigError(f"{name}: is a folder; give a YAML file in it")
    beside = [str(other) for other in path.parent.glob("*.y*ml")]
    hint = nearest(str(name), [*names, *beside])
    shipped_names = ", ".join(names)
    raise ConfigError(f"{name}: no such file{hint}; configurations of the package: {shipped_names}")


def load_federation(path: Path, overrides: Sequence[str] = ()) -> FederationConfig:
    """Read a federation's YAML file.

    Parameters
    ----------
    path : Path
    overrides : sequence of str
        ``training.rounds=5``: dotted key, ``=``, YAML value. A relative path starts at the folder
        of the file.

    Raises
    ------
    ConfigError
        The message is one line with file, key, value and the expected value.
    """
    return build_config(FederationConfig, read_yaml(path, overrides), path)


def load_site(path: Path, overrides: Sequence[str] = ()) -> SiteConfig:
    """Read a site's YAML file; see `load_federation`."""
    return build_config(SiteConfig, read_yaml(path, overrides), path)


def parse_recipe(recipe: str) -> FederationConfig:
    """Read the recipe that a server sent (`FederationConfig.recipe`).

    Raises
    ------
    ConfigError
        The text is not a recipe, or comes from another version.
    PolicyError
        A plug-in is installed in another version, or with other code.
    """
    try:
        data = from_json(recipe)
    except ValueError as error:
        raise ConfigError(f"the server's recipe: {one_line(error)}") from error
    pinned = data.pop("plugins", None) if isinstance(data, dict) else None
    try:
        federation = FederationConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(
            f"the server's recipe: {explain(error, data, FederationConfig)}"
        ) from error
    if pinned is not None:
        _check_plugins(pinned, federation)
    return federation


def _check_plugins(pinned: Any, federation: FederationConfig) -> None:
    """Compare the plug-ins that a recipe pins with those that are installed."""
    installed = {name: plugin.model_dump() for name, plugin in federation.plugins.items()}
    wanted = pinned if isinstance(pinned, dict) else {}
    for name in sorted({*installed, *wanted}):
        if wanted.get(name) != (here := installed.get(name)):
            found = f"{here['version']}, SHA-256 {here['sha256'][:16]}" if here else "not used"
            raise PolicyError(
                f"policy: plugins: the recipe has another version or other code of {name[:64]!r};"
                f" here it is {found}"
            )


def change_config(config: M, overrides: Sequence[str]) -> M:
    """Return a configuration with overrides, validated anew; see `load_federation`.

    A path in an override must be absolute: there is no file that it could be relative to.

    Raises
    ------
    ConfigError
        The message names the key, the value and the expected value.
    """
    data = config.model_dump(mode="json")
    for override in overrides:
        _override(data, override)
    try:
        return type(config).model_validate(data)
    except ValidationError as error:
        raise ConfigError(explain(error, data, type(config))) from error


def save_config(config: BaseModel, path: Path) -> None:
    """Write a resolved configuration as YAML, atomically. Its first line has the version."""
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    write_text(path, f"{_WRITTEN_BY}{__version__}\n{text}")


def saved_by(path: Path) -> str:
    """Return the version of mdmt that wrote a file with `save_config`."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    # 0.1.0 wrote no such line.
    return first.removeprefix(_WRITTEN_BY) if first.startswith(_WRITTEN_BY) else "0.1.0"


def load_saved_federation(path: Path) -> FederationConfig:
    """Read the ``federation.yaml`` of a run directory of any version.

    Raises
    ------
    ConfigError
        See `load_federation`.
    """
    return build_config(FederationConfig, upgrade(read_yaml(path)), path, SAVED)


def read_yaml(path: Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Read a YAML file. Apply overrides, expand variables, and make paths absolute.

    Raises
    ------
    ConfigError
        The file cannot be read, or it or an override is not valid YAML.
    """
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text; save the file as UTF-8") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: not valid YAML: {yaml_problem(error)}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected keys and values, as in configs/demo.yaml")
    for override in overrides:
        _override(data, override)
    return _expand(data, path, "")  # type: ignore[no-any-return]


def _override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"--set {override}: expected KEY.KEY=VALUE, such as training.rounds=5")
    try:
        value = yaml.load(text, Loader=_UniqueKeyLoader)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an impossible date
        raise ConfigError(f"--set {override}: not a YAML value: {yaml_problem(error)}") from error
    for section, part in zip(["", *parts], parts[:-1], strict=False):
        if section in _NAMED and part not in data and data:
            hint = nearest(part, data) or f"; they are {', '.join(map(str, data))}"
            raise ConfigError(f"--set {override}: {part} is not one of the {section}{hint}")
        inner = named(data.get(part))
        data[part] = inner if isinstance(inner, dict) else {}
        data = data[part]
    data[parts[-1]] = value


_NAMED = ("sites", "tasks")
"""Sections whose keys are names of the user."""
_PATH_KEYS = {"root", "cache_dir", "state_dir", "fold"}


def _expand(value: Any, path: Path, key: str) -> Any:
    """Expand ``${VARIABLES}`` in every string. Make paths relative to the file absolute."""
    if isinstance(value, dict):
        return {k: _expand(v, path, f"{key}.{k}".lstrip(".")) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand(v, path, key) for v in value]
    if not isinstance(value, str):
        return value
    for variable in _VARIABLE.findall(value):
        if variable not in os.environ:
            raise ConfigError(f"{path}: {key}: environment variable {variable} is not set")
    value = _VARIABLE.sub(lambda match: os.environ[match[1]], value)
    weights = key.rpartition(".")[2] == "weights"
    weights_file = weights and value.endswith((".safetensors", ".pth", ".pt"))
    if key.rpartition(".")[2] in _PATH_KEYS or weights_file:
        return str((path.parent / Path(value).expanduser()).resolve())
    return value


def build_config(
    model: type[M], data: dict[str, Any], path: Path, context: dict[str, Any] | None = None
) -> M:
    """Convert the result of `read_yaml` to a typed configuration.

    Raises
    ------
    ConfigError
        The message is one line with file, key, value and the expected value.
    """
    if other := _other_kind(model, data):
        raise ConfigError(f"{path}: {other}")
    try:
        return model.model_validate(data, context=context)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, data, model)}") from error


def _other_kind(model: type[BaseModel], data: dict[str, Any]) -> str | None:
    """Return an explanation if the keys are those of another kind of file."""
    found = {
        "study": "arms" in data,
        "federation": "model" in data and "training" in data,
        "site": "dataset" in data and "model" not in data,
    }
    kind = next((name for name, is_it in found.items() if is_it), None)
    wanted = model.__name__.removesuffix("Config").lower()
    if kind is None or wanted not in found or kind == wanted:
        return None
    use = {
        "study": "run it with mdmt study",
        "federation": "run it with mdmt simulate",
        "site": "it belongs into `sites` of a federation, or into a site's kit",
    }
    return f"this file describes a {kind}, not a {wanted}; {use[kind]}"
