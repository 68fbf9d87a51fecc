"""The training loop on a cohort small enough to reason about."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mdmt import training
from mdmt.config import AugmentationConfig, TrainingConfig
from mdmt.data.batches import batches_per_epoch, joint_batches, normalise, training_batches
from mdmt.data.cohort import Cohort, pool
from mdmt.data.manifest import Manifest
from mdmt.errors import ConfigError, DataError
from mdmt.models import build_model
from mdmt.optimisers import learning_rate_factor
from mdmt.training import resolve_device, train

CPU = torch.device("cpu")


def cohort(n=12, labelled=True, seed=0):
    """n training images whose mean brightness is their severity in every zone."""
    rng = np.random.default_rng(seed)
    level = rng.integers(0, 4, n)
    pixels = np.clip(60 * level[:, None, None] + rng.integers(0, 40, (n, 32, 32)), 0, 255)
    scores = np.repeat(level[:, None], 6, axis=1).astype(np.float32)
    manifest = Manifest(
        images=tuple(Path(f"{i}.png") for i in range(n)),
        rows=tuple(f"labels.csv:{i + 2}" for i in range(n)),
        patients=np.array([f"p{i}" for i in range(n)]),
        splits=np.array(["train"] * n),
        targets={
            "severity": scores if labelled else scores * np.nan,
            "prognosis": np.where(level[:, None] > 1, 1.0, 0.0).astype(np.float32),
        },
        masks=(None,) * n,
    )
    return Cohort(manifest, pixels.astype(np.uint8))


@pytest.fixture
def setup(make_config):
    """(config, model, data) for training options; a new, equal model on every call."""

    def build(data=None, aggregation=None, **training):
        options = {"rounds": 10, "local_steps": 4, "batch_size": 4} | training
        config = make_config(training=options, augmentation={"p": 0}, aggregation=aggregation or {})
        return (
            config,
            build_model(config, ("prognosis", "severity"), weights=False),
            data or cohort(),
        )

    return build


def run(config, model, data, **options):
    defaults = {"coefficients": {"severity": 1.0}, "seed": 1, "device": CPU}
    return train(model, data, config, **(defaults | options))


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.backbone.parameters()])


def test_training_lowers_the_loss(setup):
    config, model, data = setup(local_steps=20, batch_size=12, optimizer={"name": "adam"})
    first = run(config, model, data).losses["severity"]
    assert run(config, model, data).losses["severity"] < 0.5 * first


def test_the_loss_curve_of_a_tiny_run_is_pinned(setup):
    """A golden curve: whoever changes the method on purpose changes these numbers on purpose.

    At ten times the rate this run is chaotic: another order of summation gives another curve.
    """
    config, model, data = setup(local_steps=3, optimizer={"name": "sgd", "lr": 0.01})
    curve = [run(config, model, data, seed=r, round_number=r).losses["severity"] for r in (1, 2, 3)]
    assert curve == pytest.approx(GOLDEN, rel=1e-3)


GOLDEN = [0.60668, 0.56085, 0.27701]


def test_equal_seeds_give_equal_bits_and_other_seeds_do_not(setup):
    results = []
    for seed in (1, 1, 2):
        config, model, data = setup()
        run(config, model, data, seed=seed)
        results.append(weights(model))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_fedprox_keeps_the_backbone_closer_to_where_it_started(setup):
    distances = []
    for mu in (0.0, 1.0, 10.0):
        config, model, data = setup(local_steps=8, optimizer={"name": "sgd", "lr": 0.05})
        start = weights(model)
        run(config, model, data, proximal_mu=mu)
        distances.append((weights(model) - start).norm().item())
    assert distances[0] > distances[1] > distances[2] > 0


def test_fedprox_adds_exactly_mu_times_the_distance(setup):
    """Two plain SGD steps by hand: the second has the extra gradient μ(θ - θ_r)."""
    ends = {}
    for mu in (0.0, 0.5):
        options = {"name": "sgd", "lr": 0.01, "momentum": 0}
        config, model, data = setup(
            local_steps=2, batch_size=12, optimizer=options, aggregation={"norm_layers": "frozen"}
        )
        start = weights(model)
        one = setup(
            local_steps=1, batch_size=12, optimizer=options, aggregation={"norm_layers": "frozen"}
        )
        run(*one)
        run(config, model, data, proximal_mu=mu)
        ends[mu] = (start, weights(one[1]), weights(model))
    start, after_one, plain = ends[0.0]
    expected = plain - 0.01 * 0.5 * (after_one - start)
    assert torch.allclose(ends[0.5][2], expected, atol=1e-7)
    assert not torch.equal(plain, ends[0.5][2])


def test_a_head_without_labels_is_not_touched_even_by_momentum(setup):
    config, model, data = setup(cohort(labelled=False), optimizer={"name": "adam"})
    before = {k: v.clone() for k, v in model.heads["severity"].state_dict().items()}
    result = run(config, model, data, coefficients={"severity": 0.5, "prognosis": 0.5})
    assert "severity" not in result.losses
    assert all(torch.equal(before[k], v) for k, v in model.heads["severity"].state_dict().items())


def test_no_labelled_image_is_an_error(setup):
    config, model, data = setup(cohort(labelled=False))
    with pytest.raises(DataError, match="no training image has a label of severity"):
        run(config, model, data)


def test_training_goes_on_from_saved_moments(setup):
    """Two rounds with the head's moments carried over differ from two that forget them."""
    heads = []
    for keep in (True, False):
        config, model, data = setup(optimizer={"name": "adam"})
        names = [n for n, _ in model.named_parameters() if n.startswith("heads.severity")]
        first = run(config, model, data, keep_moments=names)
        assert {k.rpartition(".")[2] for k in first.moments} == {"exp_avg", "exp_avg_sq", "step"}
        run(config, model, data, seed=2, start_moments=first.moments if keep else {})
        heads.append(model.heads["severity"][-1].weight.detach().clone())
    assert not torch.equal(heads[0], heads[1])


def test_momentum_of_some_layers_pushes_them_and_no_other(setup):
    """With `norm_layers: local` a site keeps those layers' momentum and forgets the others'."""
    ends = []
    for keep in (True, False):
        config, model, data = setup(local_steps=1)
        start = copy.deepcopy(model.state_dict())
        norms = [name for name in start if name.endswith(".bn1.weight")]
        saved = run(config, model, data, keep_moments=norms).moments
        model.load_state_dict(start)
        run(config, model, data, seed=2, start_moments=saved if keep else {})
        ends.append({name: p.detach() for name, p in model.named_parameters()})
    assert len(saved) == len(norms) > 1
    lr, momentum = config.training.optimizer.lr, config.training.optimizer.momentum
    for name, end in ends[0].items():
        push = lr * momentum * saved.get(f"{name}.momentum_buffer", torch.zeros(1))
        assert torch.allclose(end, ends[1][name] - push, atol=1e-7)


def test_batches_are_made_beside_training_in_memory_that_is_kept(setup, monkeypatch):
    makers, kept = set(), []
    load = training.load_images

    def noted(*arguments):
        makers.add(threading.current_thread())
        return load(*arguments)

    monkeypatch.setattr(training, "load_images", noted)
    monkeypatch.setattr(training, "keep_memory", lambda: kept.append(True))
    run(*setup())
    assert makers
    assert threading.current_thread() not in makers
    assert not any(maker.is_alive() for maker in makers)
    assert kept == [True]


def test_compiling_without_a_compiler_is_one_clear_line(setup, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"^training.compile: no compiler no-such-compiler"):
        run(*setup(compile=True))


def test_a_compiled_backbone_is_the_one_that_is_trained(setup, monkeypatch):
    # torch's compiler without its code generator, which takes minutes and gives other bits.
    monkeypatch.setenv("CXX", "python3")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    ends = []
    for compiled in (False, True):
        config, model, data = setup(compile=compiled)
        run(config, model, data)
        ends.append(model.state_dict())
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


class _Asked(TorchDispatchMode):
    """Counts how often a tensor's value is asked for: a GPU would have to be waited for."""

    times = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.times += func in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.equal.default,
        )
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("amp", ["none", "bf16"])
def test_no_step_waits_for_a_value(setup, amp):
    asked = []
    for steps in (2, 6):
        options = {"local_steps": steps, "amp": amp, "clip_norm": 1.0}
        config, model, data = setup(optimizer={"name": "adam"}, **options)
        with _Asked() as mode:
            run(config, model, data, proximal_mu=0.1)
        asked.append(mode.times)
    assert asked[0] == asked[1]


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_mixed_precision_trains(setup, amp):
    config, model, data = setup(amp=amp)
    result = run(config, model, data)
    assert np.isfinite(result.losses["severity"])
    assert torch.isfinite(weights(model)).all()


def test_gradients_are_clipped_to_the_norm(setup):
    options = {"name": "sgd", "lr": 1.0, "momentum": 0}
    config, model, data = setup(local_steps=1, clip_norm=0.01, optimizer=options)
    start = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    run(config, model, data)
    moved = torch.cat([p.detach().flatten() for p in model.parameters()]) - start
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("n", "size", "sizes"),
    [(8, 4, [4, 4]), (9, 4, [4, 5]), (10, 4, [4, 4, 2]), (3, 8, [3]), (1, 8, [1]), (5, 1, [1] * 5)],
)
def test_an_epoch_sees_every_image_once_and_leaves_none_alone(n, size, sizes):
    batches = list(
        training_batches(np.arange(n), size, batches_per_epoch(n, size), np.random.default_rng(0))
    )
    assert [len(batch) for batch in batches] == sizes
    assert sorted(np.concatenate(batches)) == list(range(n))


def test_steps_beyond_an_epoch_reshuffle():
    batches = list(training_batches(np.arange(8), 4, 5, np.random.default_rng(0)))
    assert len(batches) == 5
    assert sorted(np.concatenate(batches[2:4])) == list(range(8))
    assert not np.array_equal(np.concatenate(batches[:2]), np.concatenate(batches[2:4]))


def test_schedules_by_hand():
    def factor(scheduler, progress):
        return learning_rate_factor(TrainingConfig(rounds=10, scheduler=scheduler), progress)

    assert factor("none", 7) == 1
    assert [factor("cosine", p) for p in (0, 5, 10)] == pytest.approx([1, 0.5, 0])
    step = {"name": "step", "rounds": 3, "gamma": 0.1}
    assert [factor(step, p) for p in (0, 2.9, 3, 6)] == pytest.approx([1, 1, 0.1, 0.01])


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_a_missing_gpu_is_an_error_not_a_fallback():
    with pytest.raises(ConfigError, match="cuda:3 is not there"):
        resolve_device("cuda:3")


@pytest.mark.parametrize(("channels", "mean"), [(1, (0.5,)), (3, (0.5,)), (3, (0.5, 0.4, 0.3))])
def test_images_are_normalised_and_lie_channels_last(make_config, channels, mean):
    config = make_config(
        model={"backbone": "test_resnet", "image_size": 32, "in_channels": channels},
        preprocessing={"mean": mean, "std": (0.5,)},
    )
    images = normalise(torch.full((2, 1, 32, 32), 0.6), config)
    assert images.shape == (2, channels, 32, 32)
    assert images.stride() == (32 * 32 * channels, 1, 32 * channels, channels)
    expected = [(0.6 - m) / 0.5 for m in mean] * (channels // len(mean))
    assert images[1, :, 7, 9].tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA, which is not there")
@pytest.mark.parametrize("amp", ["none", "fp16"])
def test_no_step_waits_for_the_gpu(setup, amp, recwarn):
    waits = []
    for steps in (2, 6):
        config, model, data = setup(local_steps=steps, amp=amp, optimizer={"name": "adam"})
        augmentation = {"flip": True, "elastic": (20, 40)}
        config = config.model_copy(update={"augmentation": AugmentationConfig(**augmentation)})
        model.to("cuda")
        recwarn.clear()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run(config, model, data, device=torch.device("cuda"))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        waits.append(sum("synchron" in str(warning.message) for warning in recwarn))
    assert waits[0] == waits[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA, which is not there")
def test_training_on_a_gpu_lowers_the_loss(setup):
    config, model, data = setup(local_steps=20, batch_size=12, optimizer={"name": "adam"})
    model.to("cuda")
    first = run(config, model, data, device=torch.device("cuda")).losses["severity"]
    again = run(config, model, data, device=torch.device("cuda")).losses["severity"]
    assert again < 0.5 * first


def test_a_pooled_step_sees_as_many_images_of_a_task_as_a_step_at_each_of_its_sites():
    """A cohort of 3 with one task, two of 5 and 25 with another; batches of 4."""
    few, pair = np.arange(3), np.arange(10, 40)
    batches = list(joint_batches([(few, 1), (pair, 2)], 4, 6, np.random.default_rng(0)))
    assert [(batch < 10).sum() for batch in batches] == [3] * 6  # seen whole in every step
    # 30 images in batches of 8: 8, 8, 8, 6, and from the start again.
    assert [(batch >= 10).sum() for batch in batches] == [8, 8, 8, 6, 8, 8]
    again = joint_batches([(few, 1), (pair, 2)], 4, 6, np.random.default_rng(0))
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))


def test_one_cohort_is_dealt_as_if_it_were_not_pooled():
    joint = joint_batches([(np.arange(9), 1)], 4, 3, np.random.default_rng(1))
    alone = training_batches(np.arange(9), 4, 3, np.random.default_rng(1))
    assert all(np.array_equal(a, b) for a, b in zip(joint, alone, strict=True))


def test_pooled_cohorts_are_divided_by_their_tasks():
    def only(task, n):
        one = cohort(n)
        return replace(one, manifest=replace(one.manifest, targets={task: targets(one, task)}))

    def targets(one, task):
        return one.manifest.targets[task]

    pooled = pool([only("prognosis", 3), only("severity", 4), only("prognosis", 5)])
    (prognosis, n_prognosis), (severity, n_severity) = pooled.strata(np.arange(12))
    assert (prognosis.tolist(), n_prognosis) == ([0, 1, 2, 7, 8, 9, 10, 11], 2)
    assert (severity.tolist(), n_severity) == ([3, 4, 5, 6], 1)
