"""What each site gets, encoded."""

from __future__ import annotations

from numpy import float32

from mdmt.algorithms import FedAvg, State, TaskSimilarity
from mdmt.blob import unpack
from mdmt.config import WireConfig
from mdmt.wire import Codec
from server.broadcast import Broadcast

W, HEAD = "backbone.w", "heads.severity.weight"


def test_every_site_gets_its_own_backbone(make_config, make_card):
    """An algorithm makes new arrays for each site, and Python gives their id to the next ones."""
    names = [f"site{number}" for number in range(30)]
    memory = {f"{site}/{W}": float32([i]) for i, site in enumerate(names)}
    state = State({W: float32([-1])}, memory=memory)
    broadcast = Broadcast(Codec(WireConfig()), TaskSimilarity(), state)
    config = make_config()
    for number, site in enumerate([*names, "new"]):
        blob, arrays = broadcast.to(make_card(config, site, prognosis=1))
        expected = -1 if site == "new" else number
        assert arrays[W].item() == unpack(blob)[W].item() == expected


def test_sites_with_the_same_arrays_share_a_blob(make_config, make_card):
    config, state = make_config(), State({W: float32([1]), HEAD: float32([2])})
    broadcast = Broadcast(Codec(WireConfig()), FedAvg(), state)
    cards = [make_card(config, "a", prognosis=1), make_card(config, "b", prognosis=1)]
    cards.append(make_card(config, "c", severity=1))
    blobs = [broadcast.to(card)[0] for card in cards]
    assert blobs[0] is blobs[1]
    assert [set(unpack(blob)) for blob in blobs] == [{W}, {W}, {W, HEAD}]
    assert set(broadcast.to(cards[0], whole=True)[1]) == {W, HEAD}
