"""The training orders of one round, and the checks of the updates that come back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from mdmt.audit_head import head_of
from mdmt.blob import BLOB, Arrays
from mdmt.errors import Refused
from mdmt.messages import LONGEST_REPORT, SiteCard, TrainOrder, TrainReport, content_bytes
from mdmt.wire import Codec, largest_message
from server.aggregation import Norms, check_update
from server.broadcast import Broadcast
from server.cosines import Direction, direction
from server.federation import Federation
from server.messaging import (
    Replies,
    read_report,
)
from server.requests import deadline, request
from server.run import RunDirectory
from server.secure_rounds import masked_arrays, secure_table
from server.update_buffer import UpdateBuffer


@dataclass
class Sent:
    """The orders of a round.

    Attributes
    ----------
    number : int
        Number of the round.
    cards : dict of int to SiteCard
        Drawn sites by node.
    arrays : dict of str to mapping
        Arrays sent to each site, before their encoding.
    bytes : dict of str to int
    replies : Replies
        Node and reply, as they arrive.
    left : set of int
        Drawn nodes that left earlier, so that nothing was sent to them.
    """

    number: int
    cards: Mapping[int, SiteCard]
    arrays: dict[str, Arrays] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    left: set[int] = field(default_factory=set)
    replies: Replies = field(init=False)


@dataclass
class Collected:
    """The replies of a round by site, in order of names."""

    reports: dict[str, TrainReport] = field(default_factory=dict)
    refusals: dict[str, str] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    norms: dict[str, Norms] = field(default_factory=dict)
    """Norms of the difference between an update and the sent arrays."""
    directions: dict[str, Direction] = field(default_factory=dict)
    """Samples of the updates, for their cosines; empty under secure aggregation."""
    factors: dict[str, Norms] = field(default_factory=dict)
    """Factors of the updates that are clipped (`server.norm_bound`)."""


def send(
    grid: Grid, federation: Federation, codec: Codec, number: int, cards: Mapping[int, SiteCard]
) -> Sent:
    """Send the training order of a round to all drawn sites.

    A site that is not connected gets it when it is back, unless it stayed away for a whole round.
    A new site gets the frozen arrays too, if its card says that its own ones differ.
    """
    sent = Sent(number, cards, left=set(cards) & federation.registry.left)
    asked = {node: card for node, card in cards.items() if node not in sent.left}
    timeout = deadline(federation.config, len(asked))
    table, frozen = secure_table(federation), federation.frozen
    broadcast = Broadcast(codec, federation.config.algorithm, federation.state)
    messages = []
    for node, card in asked.items():
        # Under secure aggregation the arrays of all sites are equal: the others add zeros.
        blob, sent.arrays[card.name] = broadcast.to(card, whole=table is not None)
        order = TrainOrder(
            run=federation.run_id,
            round=number,
            recipe=federation.recipe,
            coefficients=federation.coefficients[card.name],
            lr_factor=federation.selection.lr_factor,
            keep=federation.selection.kept_rounds,
            frozen=frozen.digest,
            secure=table,
        )
        new = card.frozen != frozen.digest and card.name not in federation.rounds_of
        extra = frozen.blob if new and frozen.digest is not None else b""
        messages.append(request(MessageType.TRAIN, node, order, blob, timeout, extra))
        sent.bytes[card.name] = content_bytes(messages[-1].content)
    sent.replies = Replies(grid, messages, timeout, frozen=frozen)
    return sent


def collect(
    federation: Federation, run: RunDirectory, codec: Codec, sent: Sent, buffer: UpdateBuffer
) -> Collected:
    """Check every reply when it arrives, and store accepted updates in the buffer."""
    found = Collected()
    sent.replies.notice = lambda node, text: run.event(
        "notice", round=sent.number, message=f"{sent.cards[node].name} {text}"
    )
    for node, reply in sent.replies:
        card = sent.cards[node]
        run.event("reply", round=sent.number, site=card.name, head=head_of(reply))
        try:
            report, blob = _read_update(federation, codec, card, sent, reply, found)
        except Refused as refused:
            found.refusals[card.name] = str(refused)
        else:
            buffer.put(card.name, blob)
            del blob  # if the buffer has written it to the disk, it is freed now
            found.reports[card.name] = report
            found.bytes[card.name] = content_bytes(reply.content)
        if reply.has_content():
            for record in reply.content.array_records.values():
                record.clear()  # Flower's records have circular references and would stay in memory
    federation.registry.left |= sent.replies.absent
    for node in sent.replies.completed:
        sent.bytes[sent.cards[node].name] += len(federation.frozen.blob)
    for node, card in sent.cards.items():
        if card.name not in found.reports:
            silence = f"no answer within {federation.config.training.round_timeout:.0f} s"
            away = node in sent.left | sent.replies.absent
            found.refusals.setdefault(card.name, "not connected" if away else silence)
    found.reports = dict(sorted(found.reports.items()))
    return found


def _read_update(
    federation: Federation,
    codec: Codec,
    card: SiteCard,
    sent: Sent,
    reply: Message,
    found: Collected,
) -> tuple[TrainReport, bytes]:
    """Check a reply to a training order. Add what its update looks like to `found`.

    Raises
    ------
    Refused
    """
    arrays = sent.arrays[card.name]
    expected = {name: array for name, array in arrays.items() if name in federation.uploaded}
    # Check the size first: an update that is too large is not decoded.
    allowed = largest_message({name: array.nbytes for name, array in expected.items()})
    if reply.has_content() and (size := content_bytes(reply.content)) > allowed + LONGEST_REPORT:
        raise Refused(f"the update has {size} bytes, at most {allowed} are expected")
    report = read_report(TrainReport, reply, card, sent.number)
    limit = federation.config.training.round_timeout
    if federation.config.sites and report.seconds > limit:  # see `deadline`
        raise Refused(f"took {report.seconds:.1f} s; training.round_timeout is {limit:g} s")
    try:
        blob = reply.content.array_records["arrays"][BLOB].data
        if federation.statements:
            masked_arrays(blob, expected, federation)
            found.norms[card.name] = {}
            return report, blob
        update = codec.decode_upload(blob, arrays)
    except KeyError as error:
        raise Refused("the reply has no arrays") from error
    except ValueError as error:
        raise Refused(f"the arrays cannot be decoded: {error}") from error
    optimised = frozenset(federation.state.optimised)
    found.norms[card.name] = check_update(update, expected, optimised)
    found.directions[card.name] = direction(update, expected, optimised)
    return report, blob
