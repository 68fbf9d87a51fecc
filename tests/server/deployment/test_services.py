"""Units, start scripts and the proxy: where they listen and what they may do."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from kit_builders import run

from mdmt.errors import BadInput


@pytest.mark.parametrize("server", ["192.0.2.7:443", "[2001:db8::7]:443"])
def test_privileged_ports_and_ipv6(source, kits, server):
    run(source, kits, server=server)
    assert unit(kits, "server")["AmbientCapabilities"] == "CAP_NET_BIND_SERVICE"
    proxy = (kits / "server" / "nginx.conf").read_text()
    assert "listen 0.0.0.0:443 ssl;" in proxy
    assert ("listen [::]:443 ssl;" in proxy) == server.startswith("[")


@pytest.mark.parametrize(
    ("bind", "line"),
    [
        (None, "listen 0.0.0.0:9092 ssl;"),
        ("192.0.2.7", "listen 192.0.2.7:9092 ssl;"),
        ("2001:db8::7", "listen [2001:db8::7]:9092 ssl;"),
    ],
)
def test_the_proxy_listens_on_the_address_that_was_given(source, kits, bind, line):
    for given in (bind, None):  # the second time, the first one is kept
        run(source, kits, bind=given)
        text = (kits / "server" / "nginx.conf").read_text()
        assert [found.strip() for found in text.splitlines() if "listen" in found] == [line]


@pytest.mark.parametrize("bind", ["fl.example.org", "0.0.0.0; }", "", "fe80::1%eth0"])
def test_only_an_ip_address_can_be_listened_on(source, kits, bind):
    with pytest.raises(BadInput, match="--bind"):
        run(source, kits, bind=bind)
    assert not kits.exists()


def test_an_nginx_conf_that_was_changed_by_hand_is_not_overwritten(source, kits, caplog):
    run(source, kits)
    file = kits / "server" / "nginx.conf"
    written = file.read_text()
    file.write_text(written.replace("server_tokens off", "server_tokens on"))
    changed = file.read_text()
    run(source, kits, bind="192.0.2.7")
    assert file.read_text() == changed
    assert f"{file} was changed by hand and is used as it is; delete it" in caplog.text
    file.unlink()
    run(source, kits)
    assert "listen 192.0.2.7:9092 ssl;" in file.read_text()


def unit(kits, role):
    """The settings of a unit; a key that occurs twice is an error."""
    folder = kits / "server" if role == "server" else kits / "sites" / "north"
    lines = (folder / f"mdmt-{role}.service").read_text().splitlines()
    pairs = [line.split("=", 1) for line in lines if "=" in line and line[0] != "#"]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def test_a_site_comes_back_after_flowers_heartbeat_window(source, kits):
    run(source, kits)
    settings = unit(kits, "site")
    assert settings["Restart"] == "always"
    assert int(settings["RestartSec"]) > 60
    assert settings["StartLimitIntervalSec"] == "0"


@pytest.mark.parametrize("role", ["server", "site"])
def test_units_allow_what_the_service_needs_and_no_more(source, kits, role):
    run(source, kits)
    settings = unit(kits, role)
    assert settings["SystemCallFilter"] == "@system-service"
    assert settings["SystemCallArchitectures"] == "native"
    assert settings["RestrictAddressFamilies"] == "AF_INET AF_INET6 AF_UNIX"
    assert settings["ProtectProc"] == "invisible"
    assert settings["KeyringMode"] == "private"
    assert settings["CapabilityBoundingSet"] == ""
    kernel = ("Tunables", "Modules", "Logs")
    for key in (*(f"ProtectKernel{k}" for k in kernel), "ProtectHostname", "ProtectControlGroups"):
        assert settings[key] == "yes"
    for key in ("NoNewPrivileges", "RestrictNamespaces", "RestrictRealtime", "RestrictSUIDSGID"):
        assert settings[key] == "yes"
    # PyTorch without /proc/cpuinfo computes other bits, and CUDA needs devices and code in memory.
    assert not {"ProcSubset", "MemoryDenyWriteExecute"} & settings.keys()
    for_gpus = {"PrivateDevices", "ProtectClock"} & settings.keys()
    assert for_gpus == (set() if role == "site" else {"PrivateDevices", "ProtectClock"})


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_units(source, kits, tmp_path):
    run(source, kits)
    program = shutil.which("true")
    for number, file in enumerate(kits.rglob("*.service")):
        copy = tmp_path / str(number) / file.name
        copy.parent.mkdir()
        copy.write_text(file.read_text().replace("/opt/mdmt/venv/bin/mdmt", str(program)))
        check = subprocess.run(
            ["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False
        )
        assert check.stderr == ""
        assert check.returncode == 0
        judge = ["systemd-analyze", "security", "--offline=true", "--threshold=25", str(copy)]
        judged = subprocess.run(judge, capture_output=True, text=True, check=False)
        assert judged.returncode == 0, judged.stdout[-300:]  # exposure of at most 2.5 of 10


def test_start_scripts_run_from_anywhere(source, kits, tmp_path):
    run(source, kits)
    (tmp_path / "bin").mkdir()
    mdmt = tmp_path / "bin" / "mdmt"
    mdmt.write_text('#!/bin/sh\necho "$@"\n')
    mdmt.chmod(0o755)
    environment = {"PATH": f"{mdmt.parent}:{os.defpath}"}
    for folder, role in ((kits / "server", "server"), (kits / "sites" / "north", "site")):
        script = str(folder / "start.sh")
        said = subprocess.run([script], cwd="/", env=environment, capture_output=True, text=True)
        assert said.stdout.split() == [role, "start", str(folder)]
