"""Site cards: read them, and check that a site can take part. A bad card refuses its site alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from flwr.app import Message

from mdmt import __version__
from mdmt.config import FederationConfig
from mdmt.errors import Refused
from mdmt.messages import LONGEST_REPORT, PROTOCOL, SiteCard, content_bytes, protocol_of
from server.claims import changed_counts, impossible_counts
from server.flower import NodeInfo
from server.messaging import reason


def read_card(node: NodeInfo, reply: Message | None) -> SiteCard | None:
    """Read the site card of an answer; None for a simulated node without a site.

    Raises
    ------
    Refused
        The node did not answer, sent something else, or answered for another site.
    """
    if reply is None:
        raise Refused("did not answer in time")
    if reply.has_error():
        raise Refused(reason(reply))
    if (size := content_bytes(reply.content)) > LONGEST_REPORT:
        raise Refused(f"sent a site card of {size} bytes; at most {LONGEST_REPORT} are read")
    try:
        text = str(reply.content.config_records["report"]["json"])
        if text == "null":
            return None
        if (protocol := protocol_of(text)) != PROTOCOL:
            raise Refused(
                f"speaks protocol {protocol} and this server protocol {PROTOCOL} (mdmt"
                f" {__version__}): install the same version at both ends"
            )
        card = SiteCard.model_validate_json(text)
    except (KeyError, ValueError) as error:
        raise Refused("did not send a valid site card") from error
    if node.name and node.name != card.name:
        raise Refused(f"holds the key of {node.name} but says it is {card.name}")
    return card


def check_card(
    config: FederationConfig, card: SiteCard, others: Collection[str], former: SiteCard | None
) -> None:
    """Check that a site can take part in this federation.

    Parameters
    ----------
    config : FederationConfig
    card : SiteCard
    others : collection of str
        Names of the sites that take part already.
    former : SiteCard or None
        The card that the same site sent earlier in this run.

    Raises
    ------
    Refused
        The text has each reason.
    """
    if problems := [
        *_misfits(config, card),
        *impossible_counts(config, card),
        *changed_counts(card, former),
    ]:
        raise Refused("; ".join(problems))
    if card.name in others:
        raise Refused("has the name of another site")


def _misfits(config: FederationConfig, card: SiteCard) -> Iterator[str]:
    """Yield how a card differs from the federation."""
    if card.federation != config.hash:
        yield "answered for another federation"
    for task, space in card.tasks.items():
        if task not in config.tasks:
            yield f"offers the task {task}, which the federation does not define"
        elif difference := config.space(task).disagreement(space):
            yield f"disagrees on the task {task}: {difference}"
        elif not _counts_labels_of(config, card, task):
            yield f"reports a histogram of other labels for the task {task}"
    if all(card.labels(task) == 0 for task in card.tasks):
        yield "has no labelled training sample"


def _counts_labels_of(config: FederationConfig, card: SiteCard, task: str) -> bool:
    """Return True if a histogram has the columns and labels of its task."""
    space = config.space(task)
    expected = space.histogram(np.empty((0, space.width)))
    found = card.histogram.get(task, {})
    return all(
        column in expected and (cells is None or set(cells) == set(expected[column]))
        for column, cells in found.items()
    )
