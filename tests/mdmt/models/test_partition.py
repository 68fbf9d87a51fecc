from __future__ import annotations

import importlib
import inspect
import pkgutil

import numpy as np
import pytest
import timm
import torch
import torchvision
from torch import nn

from mdmt.config import AggregationConfig, ModelConfig
from mdmt.errors import StateError
from mdmt.models import (
    MDMTModel,
    broadcast_names,
    build_model,
    get_arrays,
    head_task,
    local_tensors,
    norm_modules,
    optimised_names,
    set_arrays,
    set_training_mode,
    uploaded_names,
)
from mdmt.models.backbones import build_backbone
from mdmt.models.norms import NORM_TYPES
from mdmt.models.trainable import freeze

NAMES = timm.list_models("test_*")
POLICIES = ("average", "local", "frozen")
COUNTER = ".num_batches_tracked"


def model_of(name: str) -> MDMTModel:
    torch.manual_seed(0)
    backbone = build_backbone(ModelConfig(backbone=name, image_size=64))
    return MDMTModel(backbone, {"norm": nn.Linear(2, 1)})


def own_tensors(module: nn.Module) -> list[str]:
    named = (module.named_parameters(recurse=False), module.named_buffers(recurse=False))
    return [name for tensors in named for name, _ in tensors]


def library_norms() -> list[type[nn.Module]]:
    """Every class of torch, timm and torchvision called a norm that owns tensors itself."""
    packages = (nn.modules, timm.layers, timm.models, torchvision.models, torchvision.ops)
    found = set()
    for package in packages:
        for entry in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{entry.name}")
            for name, kind in inspect.getmembers(module, inspect.isclass):
                if issubclass(kind, nn.Module) and ("Norm" in name or "Abn" in name):
                    found.add(kind)
    return sorted(found, key=lambda kind: f"{kind.__module__}.{kind.__name__}")


@pytest.mark.filterwarnings("ignore")  # deprecated modules and classes of the libraries
def test_every_normalisation_class_of_the_libraries_is_known() -> None:
    owners = []
    for kind in library_norms():
        for arguments in ((8,), (8, 8)):  # GroupNorm wants groups and channels
            try:
                layer = kind(*arguments)
            except (TypeError, ValueError, AttributeError, NotImplementedError):
                continue
            if own_tensors(layer):
                owners.append(kind)
                assert isinstance(layer, NORM_TYPES), kind
            break
    assert len(owners) > 50
    assert {nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm} <= set(owners)


@pytest.mark.parametrize("name", NAMES)
def test_no_normalisation_layer_of_a_backbone_is_missed(name: str) -> None:
    backbone = model_of(name).backbone
    owners = {
        path
        for path, module in backbone.named_modules()
        if "Norm" in type(module).__name__ and own_tensors(module)
    }
    assert owners == {path for path, m in norm_modules(backbone).items() if own_tensors(m)}
    assert bool(owners) == (name != "test_nfnet")  # normaliser-free


def test_normalisation_layers_are_found_by_type_not_by_name() -> None:
    model = MDMTModel(nn.Sequential(), {"norm": nn.Sequential()})
    model.backbone.add_module("bn1", nn.Conv2d(1, 2, 1))
    model.backbone.add_module("conv", nn.BatchNorm2d(2))
    local = AggregationConfig(norm_layers="local")
    assert uploaded_names(model, local) == ("backbone.bn1.bias", "backbone.bn1.weight")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("policy", POLICIES)
def test_every_float_tensor_either_travels_or_stays(name: str, policy: str) -> None:
    model = model_of(name)
    aggregation = AggregationConfig(norm_layers=policy)
    sent, back = set(broadcast_names(model, aggregation)), set(uploaded_names(model, aggregation))
    kept = set(local_tensors(model, aggregation))
    floats = {n for n, t in model.state_dict().items() if t.is_floating_point()}
    assert back | kept >= floats
    assert not back & kept
    assert sent == {n for n in floats if n.startswith("backbone.")}
    assert set(optimised_names(model, aggregation)) <= back <= sent
    assert (sent - back == set()) == (policy != "local" or name == "test_nfnet")


def test_policies_on_batch_normalisation_by_hand() -> None:
    backbone = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2))
    model = MDMTModel(backbone, {"a": nn.Linear(2, 1)})
    conv = ("backbone.0.weight",)
    parameters = ("backbone.1.bias", "backbone.1.weight")
    statistics = ("backbone.1.running_mean", "backbone.1.running_var")
    average, local, frozen = (AggregationConfig(norm_layers=policy) for policy in POLICIES)
    everything = (*conv, parameters[0], *statistics, parameters[1])

    assert all(broadcast_names(model, policy) == everything for policy in (average, local, frozen))
    assert uploaded_names(model, average) == uploaded_names(model, frozen) == everything
    assert uploaded_names(model, local) == conv
    assert optimised_names(model, average) == (*conv, *parameters)
    assert optimised_names(model, local) == optimised_names(model, frozen) == conv
    head = ["heads.a.bias", "heads.a.weight"]
    assert list(local_tensors(model, average)) == list(local_tensors(model, frozen)) == head
    counter = "backbone.1" + COUNTER
    assert set(local_tensors(model, local)) == {*parameters, *statistics, counter, *head}


def test_shared_heads_travel_and_do_not_stay_but_no_server_optimiser_touches_them() -> None:
    model = model_of("test_resnet")
    shared = AggregationConfig(heads="shared")
    head = {"heads.norm.weight", "heads.norm.bias"}
    assert head <= set(broadcast_names(model, shared)) & set(uploaded_names(model, shared))
    assert not head & set(optimised_names(model, shared))
    assert local_tensors(model, shared) == {}


def test_what_is_trained_does_not_depend_on_the_mode_last_used() -> None:
    model = model_of("test_resnet")
    average = AggregationConfig()
    before = optimised_names(model, average)
    set_training_mode(model, "frozen")
    assert optimised_names(model, average) == before


def test_a_parameter_that_a_new_backbone_does_not_train_is_frozen() -> None:
    model, average = model_of("test_resnet"), AggregationConfig()
    before = optimised_names(model, average)
    model.backbone.get_parameter("conv1.0.weight").requires_grad_(False)
    freeze(model.backbone, ModelConfig(backbone="test_resnet"))
    assert set(before) - set(optimised_names(model, average)) == {"backbone.conv1.0.weight"}
    set_training_mode(model, "average")
    assert not model.backbone.get_parameter("conv1.0.weight").requires_grad


@pytest.mark.parametrize(
    ("name", "task"),
    [
        ("heads.a-b_1.0.weight", "a-b_1"),
        ("backbone.heads.a", None),
        ("backbone.head.fc.weight", None),
    ],
)
def test_head_task_reads_the_task_of_a_name(name: str, task: str | None) -> None:
    assert head_task(name) == task


@pytest.mark.parametrize("name", NAMES)
def test_arrays_and_kept_tensors_together_restore_a_model_exactly(name: str) -> None:
    model, other = model_of(name), model_of(name)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.add_(1)
    local = AggregationConfig(norm_layers="local")
    set_arrays(model, get_arrays(other, uploaded_names(other, local)))
    set_arrays(model, local_tensors(other, local))
    state = model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in other.state_dict().items())


def test_copies_do_not_change_with_the_model() -> None:
    model = model_of("test_resnet")
    aggregation = AggregationConfig(norm_layers="local")
    arrays = get_arrays(model, broadcast_names(model, aggregation))
    kept = local_tensors(model, aggregation)
    assert all(a.dtype == np.float32 and a.flags.c_contiguous for a in arrays.values())
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(1)
    state = model.state_dict()
    assert not any(np.array_equal(state[name].numpy(), a) for name, a in arrays.items())
    assert not any(torch.equal(state[name], tensor) for name, tensor in kept.items())


def test_arrays_go_into_the_live_parameters_that_the_optimiser_holds() -> None:
    model = model_of("test_resnet").double()
    parameter = model.backbone.get_parameter("conv1.0.weight")
    array = np.full(parameter.shape, 0.25, np.float32)[..., ::-1]
    array.flags.writeable = False
    set_arrays(model, {"backbone.conv1.0.weight": array})
    assert parameter.dtype == torch.float64
    assert parameter.requires_grad
    assert parameter.eq(0.25).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_arrays_go_to_a_gpu_and_back() -> None:
    model, aggregation = model_of("test_resnet").cuda(), AggregationConfig()
    arrays = {
        name: a + 1 for name, a in get_arrays(model, broadcast_names(model, aggregation)).items()
    }
    set_arrays(model, arrays)
    back = get_arrays(model, broadcast_names(model, aggregation))
    assert all(np.array_equal(arrays[name], back[name]) for name in arrays)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("backbone.no.weight", np.zeros(1, np.float32), "backbone.no.weight is not a tensor"),
        ("backbone.bn1.weight", np.zeros(1, np.float32), r"bn1.weight has shape \[1\], expected"),
        ("backbone.bn1.running_mean", np.zeros(24, np.int64), "running_mean is torch.int64"),
    ],
)
@pytest.mark.parametrize("through", ["arrays", "tensors"])
def test_what_does_not_fit_is_refused_before_anything_changes(
    name: str, array: np.ndarray, message: str, through: str
) -> None:
    model = model_of("test_resnet")
    first = "backbone.conv1.0.weight"
    before = get_arrays(model, [first])[first]
    if array.dtype == np.int64:
        array = np.zeros(model.state_dict()[name].shape, np.int64)
    wrong = {first: before + 1, name: array}
    if through == "tensors":
        wrong = {key: torch.from_numpy(value) for key, value in wrong.items()}
    with pytest.raises(StateError, match=message):
        set_arrays(model, wrong)
    assert np.array_equal(get_arrays(model, [first])[first], before)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet_evos", "test_efficientnet_gn"])
def test_frozen_layers_keep_values_and_statistics_while_the_rest_trains(name: str) -> None:
    model = model_of(name)
    frozen = AggregationConfig(norm_layers="frozen")
    before = get_arrays(model, broadcast_names(model, frozen))
    set_training_mode(model, "frozen")
    optimizer = torch.optim.SGD(model.backbone.parameters(), lr=1.0, weight_decay=0.1)
    model.backbone(torch.rand(4, 1, 64, 64)).square().sum().backward()
    optimizer.step()
    after = get_arrays(model, broadcast_names(model, frozen))
    changed = {key for key in before if not np.array_equal(before[key], after[key])}
    assert changed
    assert changed <= set(optimised_names(model, frozen))


def test_another_policy_ends_freezing() -> None:
    model = model_of("test_resnet")
    set_training_mode(model, "frozen")
    layers = norm_modules(model).values()
    assert not any(m.training or m.weight.requires_grad for m in layers)
    assert model.backbone.training
    set_training_mode(model, "average")
    assert all(m.training and m.weight.requires_grad for m in layers)


def test_model_of_the_federation_is_partitioned_like_any(make_config) -> None:
    config = make_config(aggregation={"heads": "shared"})
    model = build_model(config, ("severity",), weights=False)
    heads = {head_task(name) for name in broadcast_names(model, config.aggregation)}
    assert heads == {None, "severity"}
