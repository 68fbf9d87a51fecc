"""What a site reports with `privacy.dp`: nothing that depends on its training or validation data.

The privacy budget is spent on the update alone, so everything else is withheld.
"""

from __future__ import annotations

from collections.abc import Mapping

from mdmt.evaluation import Held
from mdmt.messages import Metrics, SiteCard, TrainReport
from mdmt.training import TrainingResult


def private_card(card: SiteCard) -> SiteCard:
    """Withhold every count, also 0, the histogram, and the fingerprint of the data."""
    return card.model_copy(
        update={
            "images": dict.fromkeys(card.images),
            "counts": {task: dict.fromkeys(splits) for task, splits in card.counts.items()},
            "histogram": {task: dict.fromkeys(cells) for task, cells in card.histogram.items()},
            "data": "withheld",
        }
    )


def private_train_report(report: TrainReport, result: TrainingResult) -> TrainReport:
    """Withhold losses, validation and the number of images. The number of steps is public."""
    return report.model_copy(
        update={
            "validation": {},
            "losses": dict.fromkeys(report.losses),
            "images": None,
            "steps": result.steps,
        }
    )


def private_splits(metrics: Mapping[Held, Metrics]) -> dict[Held, Metrics]:
    """Withhold the metrics of validation. Test patients are in no training step."""
    return {"val": {}, "test": metrics["test"]}
