from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mdmt.config import (
    FederationConfig,
    SiteConfig,
    build_config,
    find_config,
    load_federation,
    load_site,
    parse_recipe,
    save_config,
)
from mdmt.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"
FEDERATION = """
name: two-hospitals
model: {backbone: test_resnet}
tasks:
  severity: {kind: ordinal, outputs: [A, D], levels: 4, weight: 2, head: mlp}
  prognosis: {kind: classification, classes: [MILD, SEVERE]}
training: {rounds: 2, optimizer: adam}
sites:
  clinic:
    dataset: {kind: table, root: data}
    tasks: {severity: }
  ward:
    dataset: {kind: synthetic}
    tasks: {prognosis: {columns: outcome, values: {1: SEVERE, 0: MILD, 9: }}}
"""
SITE = """
name: clinic
dataset: {kind: table, root: "${IMAGES}/x-rays", table: labels.csv}
tasks:
  severity: {kind: ordinal, outputs: [A, D], levels: 4, columns: [zone_a, zone_d]}
state_dir: state
"""


@pytest.fixture
def write(tmp_path: Path):
    """Writer of a configuration file; gives its path."""

    def to_file(text: str = FEDERATION) -> Path:
        path = tmp_path / "federation.yaml"
        path.write_text(text)
        return path

    return to_file


def test_a_federation_reads_as_declared(write) -> None:
    config = load_federation(write())
    severity = config.tasks["severity"]
    assert (severity.weight, severity.head.hidden, severity.head.dropout) == (2.0, (128, 32), 0.5)
    assert config.tasks["prognosis"].head.hidden == ()
    assert config.training.optimizer.name == "adam"
    assert config.space("severity").width == 2


def test_inline_sites_take_name_and_label_space_from_the_federation(write) -> None:
    path = write()
    config = load_federation(path)
    clinic, ward = config.sites["clinic"], config.sites["ward"]
    assert clinic.name == "clinic"
    assert clinic.tasks["severity"].space == config.space("severity")
    assert clinic.dataset.root == path.parent / "data"
    assert ward.tasks["prognosis"].columns == ("outcome",)
    assert ward.tasks["prognosis"].values == {"1": "SEVERE", "0": "MILD", "9": ""}


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("training.round=3", "training.round: no such key; did you mean rounds? (it is 3)"),
        ("modell={}", "modell: no such key"),
        ("tasks.prognosis.levels=4", "tasks.prognosis.levels: no such key"),
        ("training.optimizer.momentum=0.5", "momentum: no such key; the keys are name, lr"),
        ("sites.ward.dataset.patient=id", "patient: no such key; did you mean patients?"),
        ("tasks.prognosis.wieght=2", "wieght: no such key; did you mean weight?"),
        ("tasks.prognosis.clases=[a]", "clases: no such key; did you mean classes?"),
        ("preprocessing.colour=red", "preprocessing.colour: no such key; the keys are clip,"),
        ("sites.ward.policy.tell_counts=false", "is now sites.ward.policy.report_counts"),
        ("training.rounds=0", "training.rounds: Input should be greater than 0 (it is 0)"),
        ("training.rounds=.inf", "training.rounds: Input should be a finite number"),
        ("training.rounds=", "training.rounds: expected a whole number"),
        ("training.optimizer=lion", "training.optimizer.name: expected one of 'sgd', 'adam'"),
        ("training.scheduler={gamma: 0.5}", "training.scheduler.name: this key is needed"),
        ("training={rounds: 1, local_steps: 2, local_epochs: 1}", "exclude each other"),
        ("aggregation.weighting=task", "weighting: expected 'tasks', 'examples' or 'uniform'"),
        ("algorithm={name: fedavg, mu: 1}", "mu: no such key"),
        ("preprocessing.clip=[98, 2]", "clip: expected [low, high] with low < high, not [98"),
        ("preprocessing.mean=[0.1, 0.2]", "preprocessing.mean: expected one value"),
        ("preprocessing.std=[0]", "preprocessing.std.0: Input should be greater than 0"),
        ("augmentation.elastic=[40, 20]", "elastic: expected [low, high]"),
        ("model.weights=ofline", "model.weights: expected none, timm, offline or a .safetensors"),
        ("model.trainable=norm", "model.trainable: expected all, norms, none or {last_blocks: 2}"),
        ("model.trainable={last_blocks: 0}", "last_blocks: Input should be greater than 0"),
        ("model.trainable.last_block=1", "last_block: no such key; did you mean last_blocks?"),
        ("training.warmup_rounds=2", "warmup_rounds: no round is left that trains the backbone"),
        ("tasks.severity.kind=binary", "tasks.severity.kind: unknown task kind binary; known:"),
        ("tasks.third={levels: 4}", "tasks.third.kind: this key is needed"),
        ("tasks.severity.head=mpl", "tasks.severity.head: expected linear, mlp or"),
        ("tasks.severity.weight=0", "tasks.severity.weight: Input should be greater than 0"),
        ("tasks.severity.mirror={A: X}", "mirror: X is none of A, D"),
        ("tasks.prognosis.classes=[no, yes]", "expected text: put it in quotes (it is False)"),
        ("tasks={}", "tasks"),
        ("tasks=[severity]", "tasks: expected keys and values, such as NAME"),
        ("tasks={a/b: {kind: multilabel, labels: [x]}}", "tasks.a/b"),
        ("sites.clinic.name=ward", "sites.clinic.name: expected clinic, not ward"),
        ("sites.clinic.tasks.severity=zone", "sites.clinic.tasks.severity"),
        ("sites.clinic.tasks={}", "sites.clinic.tasks"),
        ("sites.clinic.device=gpu", "sites.clinic.device"),
        ("sites.ward.tasks.prognosis.values={yes: MILD}", "in quotes"),
        ("name=../elsewhere", "name: expected letters, digits, - and _"),
    ],
)  # fmt: skip
def test_a_wrong_key_or_value_is_one_line_naming_file_and_key(
    write, override: str, complaint: str
) -> None:
    path = write()
    with pytest.raises(ConfigError) as caught:
        load_federation(path, [override])
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert complaint in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({"kind": "table", "table": "labels.csv"}, "site.yaml: dataset.root: this key is needed"),
        ({"kind": "table", "table": "labels.csv", "root": 1}, "site.yaml: dataset.root: Input"),
        ({"kind": "table", "table": 5, "root": "."}, "site.yaml: dataset.table: Input"),
        (
            {"kind": "table", "table": "t", "root": ".", "val_fraction": 0.9, "test_fraction": 0.9},
            "site.yaml: dataset: val_fraction + test_fraction must be below 1",
        ),
    ],
)
def test_a_key_with_the_name_of_a_dataset_kind_is_told_from_the_kind(
    data: dict[str, object], complaint: str
) -> None:
    site = {"name": "ward", "tasks": {"t": {"kind": "multilabel", "labels": ["x"]}}}
    with pytest.raises(ConfigError) as caught:
        build_config(SiteConfig, site | {"dataset": data}, Path("site.yaml"))
    assert str(caught.value).startswith(complaint)


def test_a_missing_key_is_named(write) -> None:
    with pytest.raises(ConfigError, match=r"model\.backbone: this key is needed"):
        load_federation(write(FEDERATION.replace("{backbone: test_resnet}", "{}")))


def test_several_problems_are_counted(write) -> None:
    with pytest.raises(ConfigError, match=r"\[and 1 more\]"):
        load_federation(write(), ["training.rounds=0", "training.threads=0"])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (FEDERATION + "  ward: {}\n", "the key ward is given twice"),
        (FEDERATION + "name: again\n", "the key name is given twice"),
        ("a: [", "not valid YAML"),
        ("name: {{NAME}}", "not valid YAML"),
        ("name: 2024-13-45", "not valid YAML"),
        ("- name", "expected keys and values"),
        ("", "expected keys and values"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(write, text: str, complaint: str) -> None:
    path = write(text)
    with pytest.raises(ConfigError, match=complaint) as caught:
        load_federation(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_no_text_and_missing_files_are_refused(tmp_path: Path) -> None:
    binary = tmp_path / "image.yaml"
    binary.write_bytes(b"\xff\xfe\x00name")
    for path in (binary, tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(ConfigError, match=path.name):
            load_federation(path)


def test_yaml_merges_are_no_duplicate_keys(write) -> None:
    merge = "model: {<<: {backbone: a, image_size: 64}, backbone: b}"
    model = load_federation(
        write(FEDERATION.replace("model: {backbone: test_resnet}", merge))
    ).model
    assert (model.backbone, model.image_size) == ("b", 64)


def test_overrides_set_nested_keys_in_order(write) -> None:
    overrides = [
        "training.rounds=5",
        "training.optimizer.lr=0.25",
        "algorithm={name: fedprox, mu: 0.5}",
        "augmentation.flip=false",
        "training.rounds=7",
    ]
    config = load_federation(write(), overrides)
    assert config.training.rounds == 7
    assert (config.training.optimizer.name, config.training.optimizer.lr) == ("adam", 0.25)
    assert config.algorithm.model_dump() == {"name": "fedprox", "mu": 0.5}


@pytest.mark.parametrize(
    "override", ["training.rounds", "=3", "training..rounds=3", "a=[1", "a={{b}}"]
)
def test_an_override_that_is_none_is_refused(write, override: str) -> None:
    with pytest.raises(ConfigError, match="--set "):
        load_federation(write(), [override])


def test_paths_expand_variables_and_start_from_the_file(
    write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMAGES", "/archive")
    site = load_site(write(SITE))
    assert site.dataset.root == Path("/archive/x-rays")
    assert site.dataset.table == Path("labels.csv")
    assert site.state_dir == tmp_path / "state"
    assert site.tasks["severity"].columns == ("zone_a", "zone_d")
    config = load_federation(write(), ["model.weights=pretrained.pth"])
    assert config.model.weights == str(tmp_path / "pretrained.pth")


def test_an_unset_variable_is_named_with_its_key(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMAGES", raising=False)
    with pytest.raises(ConfigError, match=r"dataset\.root: environment variable IMAGES is not set"):
        load_site(write(SITE))


def test_a_flip_needs_the_mirror_of_every_task_with_several_outputs(write) -> None:
    flip = "augmentation.flip=true"
    with pytest.raises(ConfigError, match=r"task severity .* add tasks\.severity\.mirror"):
        load_federation(write(), [flip])
    assert load_federation(write(), [flip, "tasks.severity.mirror={A: D}"]).augmentation.flip
    assert load_federation(write(), [flip, "tasks.severity.mirror={}"]).augmentation.flip


@pytest.mark.parametrize(
    ("space", "accepted"),
    [
        ("{kind: classification, classes: [a, b]", True),
        ("{kind: multilabel, labels: [x]", True),
        ("{kind: ordinal, outputs: [A], levels: 3", False),
        ("{kind: regression, outputs: [A], range: [0, 1]", False),
    ],
)
def test_class_weights_need_classes(write, space: str, accepted: bool) -> None:
    override = [f"tasks.third={space}, class_weights: balanced}}"]
    if accepted:
        assert load_federation(write(), override).tasks["third"].class_weights == "balanced"
    else:
        with pytest.raises(ConfigError, match=r"tasks\.third: class_weights: .* no classes"):
            load_federation(write(), override)


def test_a_saved_configuration_reads_back_equal(write, tmp_path: Path) -> None:
    config = load_federation(write())
    save_config(config, tmp_path / "saved.yaml")
    assert load_federation(tmp_path / "saved.yaml") == config


def test_the_recipe_holds_everything_but_the_sites(write) -> None:
    config = load_federation(write())
    received = parse_recipe(config.recipe)
    assert received == config.model_copy(update={"sites": {}})
    assert received.hash == config.hash
    for local in ('"sites"', "clinic", "outcome", str(write().parent)):
        assert local not in config.recipe


def test_the_hash_follows_the_recipe_and_ignores_the_sites(write) -> None:
    path = write()
    mine = load_federation(path).hash
    assert load_federation(path, ["sites.clinic.dataset.root=/other"]).hash == mine
    assert load_federation(path, ["training.rounds=3"]).hash != mine
    assert load_federation(path, ["tasks.severity.weight=3"]).hash != mine
    longer = ["training.round_timeout=7", "aggregation.join_timeout=7", "aggregation.min_sites=1"]
    assert load_federation(path, longer).hash == mine, "a stalled run may be given more time"
    assert load_federation(path, longer).recipe == load_federation(path).recipe


def test_a_recipe_names_a_file_of_weights_by_its_content(write, tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    file.write_bytes(b"weights")
    config = load_federation(write(), [f"model.weights={file}"])
    content = hashlib.sha256(b"weights").hexdigest()
    assert parse_recipe(config.recipe).model.weights == f"sha256:{content}"
    assert parse_recipe(config.recipe).hash == config.hash
    assert str(tmp_path) not in config.recipe
    file.unlink()
    with pytest.raises(ConfigError, match=r"mine\.safetensors: No such file"):
        _ = config.recipe


@pytest.mark.parametrize("recipe", ["", "[]", '{"name": "x"}'])
def test_a_recipe_that_is_none_is_refused_in_one_line(recipe: str) -> None:
    with pytest.raises(ConfigError, match="server's recipe") as caught:
        parse_recipe(recipe)
    assert "\n" not in str(caught.value)


def test_a_configuration_does_not_change_once_read(write) -> None:
    config = load_federation(write())
    with pytest.raises(ValueError, match="frozen"):
        config.training.rounds = 3  # type: ignore[misc]


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_configurations_that_ship_are_valid(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MDMT_DATA", "/data")
    read: dict[str, Any] = yaml.safe_load(file.read_text())
    load = load_federation if "training" in read else load_site
    assert load(find_config(file.stem)).name


def test_an_unknown_configuration_lists_those_that_ship() -> None:
    with pytest.raises(ConfigError, match=r"demoo: no such file; .*\bdemo\b"):
        find_config("demoo")


def test_a_path_goes_before_a_name_that_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo").write_text(FEDERATION)
    assert find_config("demo") == Path("demo")


@pytest.mark.parametrize("module", ["mdmt.config", "mdmt.tasks"])
def test_reading_a_configuration_loads_no_heavy_library(module: str) -> None:
    heavy = ("torch", "torchvision", "timm", "sklearn", "scipy", "pydicom", "flwr")
    code = f"import sys, {module}; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_the_defaults_of_a_federation_validate() -> None:
    least = {
        "name": "least",
        "model": {"backbone": "test_resnet"},
        "tasks": {"t": {"kind": "multilabel", "labels": ["x"]}},
        "training": {"rounds": 1},
    }
    config = FederationConfig.model_validate(least)
    assert (config.aggregation.weighting, config.aggregation.heads) == ("tasks", "local")
    assert config.tasks["t"].weight == 1.0
    assert not config.augmentation.flip
