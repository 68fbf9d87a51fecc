"""Training with differential privacy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mdmt.config.privacy import DifferentialPrivacy
from mdmt.data.cohort import Cohort
from mdmt.data.manifest import Manifest
from mdmt.errors import ConfigError, DataError, PolicyError
from mdmt.models import build_model, norm_modules
from mdmt.privacy.accounting import Mechanism
from mdmt.privacy.dp_training import Patients, add_noise, train_privately
from mdmt.privacy.noise import NoiseSource

CPU = torch.device("cpu")
SECRET = bytes(range(32))


class Account:
    """An account without files that notes what is spent."""

    def __init__(self, order="order", refuse=False):
        self.order, self.refuse, self.spent = order, refuse, []

    def spend(self, mechanism, data, start):
        if self.refuse:
            raise PolicyError("policy: max_epsilon")
        self.spent.append((mechanism, data, start))
        return NoiseSource(SECRET, self.order + data + start)


def cohort(n=12, per_patient=2, labelled=True):
    """`n` training images of n / per_patient patients, in an order that mixes the patients."""
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, (n, 6)).astype(np.float32)
    patients = np.array([f"p{i % (n // per_patient)}" for i in range(n)])
    manifest = Manifest(
        images=tuple(Path(f"{i}.png") for i in range(n)),
        rows=tuple(f"labels.csv:{i + 2}" for i in range(n)),
        patients=patients,
        splits=np.array(["train"] * n),
        targets={"severity": scores if labelled else scores * np.nan},
        masks=(None,) * n,
    )
    return Cohort(manifest, rng.integers(0, 255, (n, 32, 32)).astype(np.uint8))


@pytest.fixture
def config(make_config):
    def build(dp=None, norm_layers="frozen", **changes):
        options = {"noise_multiplier": 1.0, "sample_rate": 0.5} | (dp or {})
        training = {"rounds": 3, "local_steps": 2, "optimizer": {"name": "sgd", "lr": 0.1}}
        return make_config(
            training=training | changes.pop("training", {}),
            aggregation={"weighting": "uniform", "norm_layers": norm_layers},
            privacy={"dp": options},
            **changes,
        )

    return build


def run(config, data=None, account=None, model=None, **options):
    model = model or build_model(config, ("prognosis", "severity"), weights=False)
    account = account or Account()
    result = train_privately(
        model,
        data or cohort(),
        config,
        coefficients={"severity": 1.0},
        device=CPU,
        account=account,
        **options,
    )
    return model, result, account


def flat(model, part=""):
    named = model.named_parameters()
    return torch.cat([p.detach().flatten() for n, p in named if n.startswith(part)])


def test_images_are_grouped_by_patient():
    data = cohort(n=6, per_patient=2)  # p0 p1 p2 p0 p1 p2
    patients = Patients.of(data, np.array([0, 1, 2, 4, 5]))
    assert patients.images.tolist() == [0, 1, 4, 2, 5]
    assert patients.sizes.tolist() == [1, 2, 2]
    drawn = patients.drawn(np.array([True, False, True]))
    assert drawn.images.tolist() == [0, 2, 5]
    assert drawn.sizes.tolist() == [1, 2]
    nobody = patients.drawn(np.zeros(3, bool))
    assert nobody.images.tolist() == nobody.sizes.tolist() == []


def test_without_noise_and_clipping_a_step_is_the_mean_gradient_over_patients(config):
    """q = 1: the mean over patients of Σ_images Σ m·e / 6."""
    tiny = {"noise_multiplier": 1e-12, "clip": 1e6, "sample_rate": 1.0}
    steps = {"local_steps": 1, "optimizer": {"name": "sgd", "lr": 0.01, "momentum": 0}}
    options = config(tiny, training=steps, augmentation={"p": 0})
    data = cohort()
    model = build_model(options, ("prognosis", "severity"), weights=False)
    before = flat(model, "heads.severity")
    with torch.no_grad():
        images = (torch.from_numpy(np.array(data.pixels))[:, None] / 255 - 0.5) / 0.5
        features = model.eval().backbone(images)
        targets = torch.from_numpy(data.manifest.targets["severity"])
        slope = 2 * (model.heads["severity"](features) - (targets - 1.5) / 1.5) / 6 / 6
    expected = torch.cat([(slope.T @ features).flatten(), slope.sum(dim=0)])
    run(options, data, model=model)
    assert torch.allclose(before - flat(model, "heads.severity"), 0.01 * expected, atol=1e-6)


def test_a_step_in_which_nobody_is_drawn_is_noise_alone(config):
    never = {"sample_rate": 1e-9, "noise_multiplier": 2.0, "clip": 3.0}
    options = config(
        never, training={"local_steps": 1, "optimizer": {"name": "sgd", "lr": 1e-12, "momentum": 0}}
    )
    model = build_model(options, ("prognosis", "severity"), weights=False)
    gradients = {}
    names = [n for n, _ in model.named_parameters()]
    run(options, model=model)
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    drawn = torch.cat([gradients[n].flatten() for n in names if n in gradients])
    assert drawn.numel() > 100_000
    assert (drawn * 1e-9 * 6).std().item() == pytest.approx(6.0, rel=0.01)
    assert (drawn * 1e-9 * 6).mean().item() == pytest.approx(0.0, abs=0.05)


def test_backbone_and_trained_heads_get_noise_and_nothing_else_changes(config):
    options = config()
    model = build_model(options, ("prognosis", "severity"), weights=False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run(options, model=model)
    same = {n for n, v in model.state_dict().items() if torch.equal(v, before[n])}
    norms = {f"{n}.{k}" for n, m in norm_modules(model).items() for k in m.state_dict()}
    assert norms <= same
    rest = same - norms
    assert rest == {"heads.prognosis.0.weight", "heads.prognosis.0.bias"}


def test_the_noisy_gradient_lies_on_a_grid():
    """Its last bits cannot reveal the bits of the summands (Mironov 2012)."""
    dp = DifferentialPrivacy(noise_multiplier=1.0, clip=1.0, sample_rate=0.5)
    parameter = torch.nn.Parameter(torch.zeros(1000, dtype=torch.float64))
    total = {"x": torch.rand(1000, dtype=torch.float64)}
    add_noise({"x": parameter}, total, dp, 4, NoiseSource(SECRET, "").stream(0, "noise"))
    steps = parameter.grad * 2 * 2.0**20  # q·N = 2
    assert torch.equal(steps, steps.round())
    assert parameter.grad.std().item() == pytest.approx((1 + 1 / 12) ** 0.5 / 2, rel=0.1)


@pytest.mark.parametrize("changes", [{}, {"tasks": "dropout"}])
def test_equal_orders_give_equal_bits_and_others_do_not(config, changes, make_config):
    if changes:
        tasks = make_config().model_dump(mode="json")["tasks"]
        for task in tasks.values():
            task["head"] = {"hidden": [8], "dropout": 0.5}
        changes = {"tasks": tasks}
    options = config(**changes)
    one, two = flat(run(options)[0]), flat(run(options)[0])
    other = flat(run(options, account=Account("another order"))[0])
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_other_data_or_another_start_is_another_identity(config):
    """Noise that is used twice would cancel."""
    options = config()
    first = run(options)[2].spent[0]
    assert first == run(options)[2].spent[0]
    assert first[0] == Mechanism(0.5, 1.0, 2)
    regrouped = cohort(per_patient=3)
    assert run(options, regrouped)[2].spent[0][1] != first[1]
    moved = build_model(options, ("prognosis", "severity"), weights=False)
    with torch.no_grad():
        moved.heads["severity"][-1].bias.add_(1)
    assert run(options, model=moved)[2].spent[0][2] != first[2]
    moments = {"heads.severity.0.bias.momentum_buffer": torch.ones(6)}
    assert run(options, start_moments=moments)[2].spent[0][2] != first[2]


def test_nothing_is_trained_if_the_account_refuses(config):
    options = config()
    model = build_model(options, ("prognosis", "severity"), weights=False)
    before = flat(model)
    with pytest.raises(PolicyError, match="max_epsilon"):
        run(options, account=Account(refuse=True), model=model)
    assert torch.equal(flat(model), before)


def test_no_loss_and_no_count_is_in_the_result(config):
    _, result, _ = run(config(training={"local_steps": None, "local_epochs": 3}))
    assert result.losses == {}
    assert result.images == 0
    assert result.steps == 3 * 2  # ⌈1/.5⌉ steps per epoch


def test_the_proximal_term_and_the_moments_work_as_without_privacy(config):
    ends = {}
    for mu in (0.0, 5.0):
        options = config(training={"local_steps": 6})
        model = build_model(options, ("prognosis", "severity"), weights=False)
        start = flat(model, "backbone")
        names = [n for n, _ in model.named_parameters() if n.startswith("heads.severity")]
        _, result, _ = run(options, model=model, proximal_mu=mu, keep_moments=names)
        ends[mu] = (flat(model, "backbone") - start).norm()
        assert set(result.moments) == {f"{name}.momentum_buffer" for name in names}
    assert ends[5.0] < ends[0.0]


def test_normalisation_over_a_batch_is_refused(config):
    with pytest.raises(ConfigError, match="set aggregation"):
        run(config(norm_layers="average"))


def test_layer_normalisation_needs_no_freezing(config):
    options = config(norm_layers="average", model={"backbone": "test_vit", "image_size": 32})
    model = build_model(options, ("prognosis", "severity"), weights=False)
    before = {n: p.detach().clone() for n, p in model.named_parameters() if "norm" in n}
    run(options, model=model)
    assert before
    assert not any(torch.equal(before[n], model.get_parameter(n)) for n in before)


def test_no_labelled_patient_is_an_error_that_costs_nothing(config):
    account = Account()
    with pytest.raises(DataError, match="no training image"):
        run(config(), cohort(labelled=False), account)
    assert account.spent == []


@pytest.mark.parametrize(
    ("section", "value", "reason"),
    [
        ("aggregation", {"weighting": "tasks"}, "weighting must be uniform"),
        ("references", ["local"], r"references must be \[\]"),
        ("scheduler", "plateau", "must not be plateau"),
        ("amp", "bf16", "amp must be none"),
        ("compile", True, "compile must be false"),
    ],
)
def test_what_does_not_go_with_privacy_is_refused_by_name(make_config, section, value, reason):
    keys = {
        "training": {"rounds": 1, "local_steps": 1},
        "aggregation": {"weighting": "uniform"},
        "privacy": {"dp": {"noise_multiplier": 1.0, "sample_rate": 0.5}},
    }
    if section in ("scheduler", "amp", "compile"):
        keys["training"][section] = value
    else:
        keys[section] = value
    with pytest.raises(ValidationError, match=f"with privacy.dp .*{reason}"):
        make_config(**keys)


def test_balanced_class_weights_are_refused(make_config):
    tasks = {"prognosis": {"kind": "classification", "classes": ["a", "b"]}}
    keys = {
        "aggregation": {"weighting": "uniform"},
        "privacy": {"dp": {"noise_multiplier": 1.0, "sample_rate": 0.5}},
    }
    tasks["prognosis"]["class_weights"] = "balanced"
    with pytest.raises(ValidationError, match="class_weights must be none"):
        make_config(tasks=tasks, **keys)
