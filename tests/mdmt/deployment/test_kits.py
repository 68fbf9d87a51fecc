"""Kits are opened or refused in one line, and addresses are what they say."""

from __future__ import annotations

import json

import pytest

from mdmt.deployment.kits import open_server_kit, open_site_kit, split_address
from mdmt.errors import BadInput

SITE = {
    "format": 3,
    "role": "site",
    "name": "a",
    "federation": "test",
    "server": "localhost:9092",
    "app": "0" * 64,
    "versions": {},
}


@pytest.mark.parametrize(
    "address",
    [
        "fl.example.org",
        "fl.example.org:",
        ":9092",
        "fl.example.org:http",
        "fl.example.org:0",
        "fl.example.org:65536",
        "fl.example.org:-1",
        "fl.example.org:٣",
        "https://fl.example.org:9092",
        "fl.example.org:9092/path",
        "fl example.org:9092",
        "-fl.example.org:9092",
        "fl..example.org:9092",
        "10.0.0.300:9092",
        "2001:db8::7:9092",
        "[2001:db8::7]",
        "[192.0.2.7]:9092",
        "[fe80::1%eth0]:9092",
        "[fl.example.org]:9092",
        "münchen.example:9092",
        "*.example.org:9092",
        "a" * 64 + ".org:9092",
        "fl.example.org:9092\n",
    ],
)
def test_what_is_no_address(address):
    with pytest.raises(BadInput):
        split_address(address)


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("fl.example.org:9092", "fl.example.org", 9092),
        ("localhost:1", "localhost", 1),
        ("node-1.h2:65535", "node-1.h2", 65535),
        ("192.0.2.7:9092", "192.0.2.7", 9092),
        ("[2001:db8::7]:9092", "2001:db8::7", 9092),
    ],
)
def test_addresses(address, host, port):
    assert split_address(address) == (host, port)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "not a site's kit"),
        ("{", "not a site's kit"),
        (json.dumps(SITE | {"role": "server"}), "this is a server's kit, not a site's"),
        (json.dumps(SITE | {"port": 1}), "kit.json: port"),
        (json.dumps(SITE | {"name": "../a"}), "kit.json: name"),
    ],
)
def test_what_is_no_kit(text, says, tmp_path):
    if text is not None:
        (tmp_path / "kit.json").write_text(text)
    with pytest.raises(BadInput, match=says) as error:
        open_site_kit(tmp_path)
    assert "\n" not in str(error.value)


def test_a_kit_may_be_named_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "kit.json").write_text(json.dumps(SITE))
    monkeypatch.chdir(tmp_path)
    kit = open_site_kit(tmp_path / "." / "..".replace("..", "."))
    assert kit.site_file == tmp_path.resolve() / "site.yaml"
    with pytest.raises(BadInput, match="site's kit, not a server's"):
        open_server_kit(tmp_path)


def test_a_kit_that_belongs_to_another_user_is_not_called_something_else(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.read_text", refuse)
    with pytest.raises(BadInput, match="only the owner of this kit"):
        open_site_kit(tmp_path)
