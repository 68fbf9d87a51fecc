"""What a site claims about its data: counts that can be true together.

The server cannot see how many images a site has. It refuses counts that contradict each other, a
former card, or a report. `aggregation.max_weight` limits what other false counts gain.
"""

from __future__ import annotations

from collections.abc import Iterator

from mdmt.config import FederationConfig
from mdmt.data.manifest import SPLITS
from mdmt.errors import Refused
from mdmt.messages import Report, SiteCard


def impossible_counts(config: FederationConfig, card: SiteCard) -> Iterator[str]:
    """Yield counts that are impossible, or withheld where the weights need them."""
    for task in card.tasks.keys() & config.tasks.keys():
        outputs = config.space(task).width
        for split in SPLITS:
            labels, images = card.counts[task][split], card.images[split]
            if labels is not None and images is not None and labels > images * outputs:
                yield (
                    f"claims {labels} labels of the task {task} in the {split} split, which has"
                    f" {images} images with {outputs} labels each"
                )
        cells = [sum(column.values()) for column in card.histogram.get(task, {}).values() if column]
        images = card.images["train"]
        if images is not None and max(cells, default=0) > images:
            yield f"reports a histogram of {max(cells)} images for the task {task}, not {images}"
    if config.aggregation.weighting == "uniform":
        return
    withheld = [
        f"how many labels of the task {t} it has" for t in card.tasks if card.labels(t) is None
    ]
    if card.images["train"] is None:
        withheld.append("how many training images it has")
    if withheld:
        yield f"withholds {withheld[0]}, which needs aggregation.weighting: uniform"


def changed_counts(card: SiteCard, former: SiteCard | None) -> Iterator[str]:
    """Yield counts that changed although the data did not."""
    if former is None or card.data != former.data:
        return
    if card.images != former.images:
        yield "reports other numbers of images than before, for the same data"
    for task in card.counts.keys() & former.counts.keys():
        if card.counts[task] != former.counts[task]:
            yield f"reports other counts of the task {task} than before, for the same data"


def check_report(card: SiteCard, report: Report) -> None:
    """Compare the numbers of evaluated images in a report with the counts of the site's card.

    Raises
    ------
    Refused
        They cannot both be true.
    """
    for split, metrics in report.evaluated:
        images = card.images.get(split)
        for task, space in card.tasks.items():
            examples, labels = metrics.get(f"{task}/examples"), card.counts[task].get(split)
            if examples is None:
                continue
            possible = labels is None or -(-labels // space.width) <= examples <= labels
            if not possible or (images is not None and examples > images):
                raise Refused(
                    f"reports {examples} labelled {split} images of the task {task}, but its card"
                    f" says {images} images and {labels} labels"
                )
