"""The rounds that the server keeps are kept at the sites too."""

from __future__ import annotations

import random

from client.memory import SiteMemory
from mdmt.checkpoints import RoundFiles
from mdmt.selection import Selection


def test_a_site_can_go_back_to_every_round_that_the_server_keeps(make_config, tmp_path):
    """Random validation results, and sites that miss rounds."""
    rng = random.Random(0)
    config = make_config()
    for trial in range(20):
        server, selection = RoundFiles(tmp_path / f"{trial}" / "server", {}), Selection(config)
        sites = [RoundFiles(tmp_path / f"{trial}" / name, {}) for name in "ab"]
        trained: list[set[int]] = [set(), set()]
        for number in range(1, 12):
            for site, rounds in zip(sites, trained, strict=True):
                if rng.random() < 0.7:
                    SiteMemory(site, number - 1).save(number, {}, {}, selection.kept_rounds)
                    rounds.add(number)
            metrics = {"prognosis/auroc": rng.random(), "severity/mae": rng.random()}
            selection.book(number - 1, {"a": metrics}, {"prognosis": ["a"], "severity": ["a"]})
            server.save(number, {})
            server.prune((*selection.kept_rounds, number - 1, number))
            for kept in server.rounds():
                for site, rounds in zip(sites, trained, strict=True):
                    expected = max((r for r in rounds if r <= kept), default=None)
                    assert site.latest(kept) == expected
