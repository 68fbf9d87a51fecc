"""A killed SuperNode's place at the server is given back, and nobody else's."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from types import SimpleNamespace

import httpx
import pytest

from client.deployment import place as module
from client.deployment.place import Place

OUTPUT = "INFO :      SuperNode ID: 17606901813970189899\n"


@pytest.fixture
def ended():
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A place whose requests to the server are in `told`."""
    (tmp_path / "ca.crt").write_bytes(b"CA")
    monkeypatch.setattr(module, "read_key", lambda path, openssh: "key")
    told = []
    monkeypatch.setattr(module, "deactivate_node", lambda *facts: told.append(facts))
    facts = SimpleNamespace(server="fl.example.org:9092")
    kit = SimpleNamespace(
        facts=facts, private_key=tmp_path / "site.key", ca_certificate=tmp_path / "ca.crt"
    )
    made = Place(kit, tmp_path / "node.json")
    made.told, made.file = told, tmp_path / "node.json"
    return made


def test_the_place_of_a_connected_supernode_that_was_killed_is_given_back_once(place, ended):
    place.watch("INFO :      Starting Flower SuperNode\n", ended)
    place.watch(OUTPUT, ended)
    place.free()
    place.free()
    assert place.told == [("fl.example.org:9092", b"CA", "key", 17606901813970189899)]


def test_a_supernode_that_was_refused_frees_no_place(place, ended):
    """Another copy of the kit may have it."""
    place.watch("ERROR : Failed to activate SuperNode\n", ended)
    place.free()
    assert place.told == []


def test_a_supernode_that_ended_in_order_has_left_by_itself(place, ended):
    place.watch(OUTPUT, ended)
    place.left()
    place.free()
    assert place.told == []


def test_a_copy_of_the_folder_on_another_machine_frees_no_place(place, ended, monkeypatch):
    place.watch(OUTPUT, ended)
    monkeypatch.setattr(platform, "node", lambda: "another-machine")
    place.free()
    assert place.told == []


def test_a_supernode_that_still_ends_is_waited_for(place, monkeypatch):
    monkeypatch.setattr(module, "_PATIENCE", 0.3)
    place.watch(OUTPUT, os.getpid())
    place.free()
    assert len(place.told) == 1


def test_a_server_that_does_not_answer_is_told_at_the_next_start(place, ended, monkeypatch):
    def away(*facts):
        raise httpx.ConnectError("refused")

    place.watch(OUTPUT, ended)
    with monkeypatch.context() as patch:
        patch.setattr(module, "deactivate_node", away)
        place.free()
    place.free()
    assert len(place.told) == 1


def test_a_place_that_was_left_already_is_forgotten(place, ended, monkeypatch):
    def unknown(*facts):
        request = httpx.Request("POST", "https://fl.example.org")
        raise httpx.HTTPStatusError("409", request=request, response=httpx.Response(409))

    place.watch(OUTPUT, ended)
    monkeypatch.setattr(module, "deactivate_node", unknown)
    place.free()
    assert not place.file.exists()


def test_a_damaged_file_stops_no_site(place):
    for text in ("", "[]", json.dumps({"node": 1})):
        place.file.write_text(text)
        place.free()
    assert place.told == []
