from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mdmt.losses import combine
from mdmt.tasks import Classification, Multilabel, Ordinal, Regression, Task

NAN = math.nan
KINDS: dict[str, Task] = {
    "classification": Classification(classes=("LOW", "MID", "HIGH")),
    "regression": Regression(outputs=("A", "B", "D"), range=(0, 3)),
    "ordinal": Ordinal(outputs=("A", "B"), levels=4),
    "multilabel": Multilabel(labels=("x", "y", "z")),
}
by_kind = pytest.mark.parametrize("task", KINDS.values(), ids=KINDS)


def labels(task: Task, rows: int, seed: int = 0) -> Tensor:
    """Valid targets; where a sample has several, some are missing."""
    generator = np.random.default_rng(seed)
    top = 2 if task.kind == "multilabel" else 3
    targets = generator.integers(0, top, (rows, task.width)).astype(float)
    if task.width > 1:
        targets[generator.random(targets.shape) < 0.3] = NAN
        targets[:, 0] = np.arange(rows) % top
    return torch.from_numpy(targets)


def unlabelled(task: Task, rows: int) -> Tensor:
    return torch.full((rows, task.width), NAN, dtype=torch.float64)


class TwoTasks(nn.Module):
    """A tiny shared backbone with a head for each of two tasks, in float64."""

    def __init__(self, tasks: dict[str, Task]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.tasks = tasks
        self.backbone = nn.Sequential(nn.Linear(5, 4), nn.Tanh())
        self.heads = nn.ModuleDict({name: nn.Linear(4, t.n_outputs) for name, t in tasks.items()})
        self.double()

    def gradients(
        self, inputs: Tensor, targets: dict[str, Tensor], coefficients: dict[str, float]
    ) -> Tensor:
        """Gradient of Σ c_t ℓ_t over all parameters, as one vector."""
        features = self.backbone(inputs)
        losses = {
            name: self.tasks[name].loss(self.heads[name](features), target)[0]
            for name, target in targets.items()
        }
        parameters = list(self.parameters())
        gradients = torch.autograd.grad(
            combine(losses, coefficients), parameters, materialize_grads=True
        )
        return torch.cat([gradient.flatten() for gradient in gradients])


@pytest.mark.parametrize(
    "kinds", [*itertools.combinations_with_replacement(KINDS, 2)], ids=lambda k: "-".join(k)
)
def test_p1_the_pooled_gradient_is_the_weighted_sum_of_each_tasks_own(
    kinds: tuple[str, str],
) -> None:
    tasks = {"first": KINDS[kinds[0]], "second": KINDS[kinds[1]]}
    model = TwoTasks(tasks)
    inputs = torch.randn(16, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mine = {"first": torch.arange(0, 16, 4), "second": torch.tensor([1, 2, 3, 5, 6, 7, 9, 10, 11])}
    weights = {"first": 0.7, "second": 2.0}
    pooled = {name: unlabelled(task, 16) for name, task in tasks.items()}
    alone = torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    for seed, (name, rows) in enumerate(mine.items()):
        own = labels(tasks[name], len(rows), seed)
        pooled[name][rows] = own
        alone += weights[name] * model.gradients(inputs[rows], {name: own}, {name: 1.0})
    mixed = model.gradients(inputs, pooled, weights)
    assert alone.norm() > 1e-2
    assert (mixed - alone).norm() <= 1e-12 * alone.norm()


@by_kind
def test_unlabelled_samples_change_neither_loss_nor_count(task: Task) -> None:
    outputs = torch.randn(12, task.n_outputs, dtype=torch.float64)
    targets = labels(task, 4)
    alone, count = task.loss(outputs[:4], targets)
    mixed, mixed_count = task.loss(outputs, torch.cat([targets, unlabelled(task, 8)]))
    assert alone.item() == pytest.approx(mixed.item(), rel=1e-14)
    assert count.item() == mixed_count.item() == torch.isfinite(targets).sum().item()


@by_kind
@pytest.mark.parametrize("rows", [0, 3])
def test_unlabelled_task_adds_exactly_zero_and_no_gradient(task: Task, rows: int) -> None:
    outputs = torch.randn(rows, task.n_outputs, requires_grad=True)
    loss, count = task.loss(outputs, unlabelled(task, rows).float())
    loss.backward()
    assert loss.item() == 0.0
    assert count.item() == 0.0
    assert outputs.grad is not None
    assert torch.count_nonzero(outputs.grad) == 0


@by_kind
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_missing_labels_never_poison_the_gradient(task: Task, scale: float) -> None:
    outputs = (scale * torch.randn(9, task.n_outputs)).requires_grad_()
    targets = labels(task, 9).float()
    targets[::3] = NAN
    with torch.autograd.detect_anomaly(check_nan=True):
        loss, _ = task.loss(outputs, targets)
        loss.backward()
    assert outputs.grad is not None
    assert torch.isfinite(outputs.grad).all()
    assert torch.count_nonzero(outputs.grad[::3]) == 0
    assert torch.count_nonzero(outputs.grad[1::3]) > 0


@by_kind
def test_float32_targets_serve_outputs_of_any_precision(task: Task) -> None:
    targets = labels(task, 5).float()
    for dtype in (torch.float32, torch.float64):
        loss, count = task.loss(torch.zeros(5, task.n_outputs, dtype=dtype), targets)
        assert loss.dtype == count.dtype == dtype


def test_cross_entropy_by_hand() -> None:
    task = Classification(classes=("MILD", "SEVERE"))
    outputs = torch.tensor([[0.0, math.log(3)], [0.0, 0.0], [5.0, -5.0]])
    targets = torch.tensor([[1.0], [0.0], [NAN]])
    loss, count = task.loss(outputs, targets)
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(2)) / 2)
    assert count.item() == 2


def test_class_weights_multiply_terms_and_leave_the_count() -> None:
    task = Classification(classes=("MILD", "SEVERE"))
    outputs, targets = torch.zeros(2, 2), torch.tensor([[1.0], [0.0]])
    loss, _ = task.loss(outputs, targets, torch.tensor([0.5, 3.0]))
    # Divided by 2 labels, not by the weights' sum 3.5.
    assert loss.item() == pytest.approx(math.log(2) * (0.5 + 3.0) / 2)


def test_squared_error_is_in_units_of_half_the_range_and_per_present_label() -> None:
    task = Regression(outputs=("A", "B"), range=(0, 4))
    # Targets 4 and 0 are +1 and -1; the errors are 1, missing, -1, 0.5.
    outputs = torch.tensor([[2.0, 9.0], [-2.0, 1.5]])
    loss, count = task.loss(outputs, torch.tensor([[4.0, NAN], [0.0, 4.0]]))
    assert loss.item() == pytest.approx((1 + 1 + 0.25) / 3)
    assert count.item() == 3


def test_ordinal_cross_entropy_reads_each_outputs_own_levels() -> None:
    task = Ordinal(outputs=("A", "B"), levels=3)
    outputs = torch.tensor([[0.0, 0.0, math.log(2), math.log(6), 0.0, 0.0]])
    loss, count = task.loss(outputs, torch.tensor([[2.0, 0.0]]))
    assert loss.item() == pytest.approx((math.log(4 / 2) + math.log(8 / 6)) / 2)
    assert count.item() == 2
    only_a, _ = task.loss(outputs, torch.tensor([[2.0, NAN]]))
    assert only_a.item() == pytest.approx(math.log(2))


def test_binary_cross_entropy_weights_presence() -> None:
    task = Multilabel(labels=("x", "y"))
    outputs = torch.tensor([[0.0, math.log(3)], [0.0, 7.0]])
    targets = torch.tensor([[1.0, 0.0], [0.0, NAN]])
    loss, count = task.loss(outputs, targets, torch.tensor([5.0, 1.0]))
    assert loss.item() == pytest.approx((5 * math.log(2) + math.log(4) + math.log(2)) / 3)
    assert count.item() == 3


def test_the_objective_is_the_coefficient_weighted_sum() -> None:
    losses = {"a": torch.tensor(2.0), "b": torch.tensor(3.0)}
    assert combine(losses, {"a": 0.5, "b": 10.0, "absent": 7.0}).item() == 31.0


def test_a_loss_without_a_coefficient_is_refused() -> None:
    with pytest.raises(KeyError, match="b"):
        combine({"b": torch.tensor(1.0)}, {"a": 1.0})
