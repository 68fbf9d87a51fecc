"""Every check says in one line what is wrong and what to do, whatever else is wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from threading import Thread
from types import SimpleNamespace

import pytest
import torch
import yaml
from builders import PROGNOSIS
from cli_builders import patients, table_site, write_rows
from deployment import free_ports, make_kits, serve
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE

from client.budget import Budget
from client.deployment.check import check_site
from client.deployment.check.kit import check_approval, check_key, check_site_file
from client.deployment.check.machine import check_device, check_folder, check_versions
from client.deployment.check.registered import check_registered
from client.deployment.check.server import (
    Answer,
    ask_server,
    check_address,
    check_certificate,
    check_clock,
    check_server,
)
from mdmt.config import Policy, load_site
from mdmt.deployment.keys import new_key, read_certificate, read_key, write_key
from mdmt.deployment.kits import KIT_FILE, open_site_kit, split_address
from server.deployment.certificates import (
    certificate_pem,
    issue_ca,
    issue_server_certificate,
)

ACTIVATE = "/v1/fleet/activate-node"


def flower_error(status, code):
    return status, json.dumps({"code": code, "detail": "as Flower says it"}).encode()


KNOWN, UNKNOWN = flower_error(400, 2003), flower_error(412, 2004)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A site's kit with a dataset, and the server's kit; copied by each test that changes it."""
    folder = tmp_path_factory.mktemp("made")
    server = make_kits(folder / "kits")
    write_rows(folder / "data", patients(14))
    site = table_site(folder / "data") | {"name": "clinic", "tasks": {"prognosis": PROGNOSIS}}
    site |= {"state_dir": "state", "cache_dir": "cache"}
    (folder / "kits" / "sites" / "clinic" / "site.yaml").write_text(yaml.safe_dump(site))
    return open_site_kit(folder / "kits" / "sites" / "clinic"), server


@pytest.fixture
def kit(made, tmp_path):
    return open_site_kit(shutil.copytree(made[0].folder, tmp_path / "clinic"))


@pytest.fixture
def server(made):
    return made[1]


@contextmanager
def up(server, answers=None, **attributes):
    """The server, where the kits say it is."""
    port = split_address(server.facts.server)[1]
    answers = {ACTIVATE: KNOWN} | (answers or {})
    with serve(port, server.certificate, server.private_key, answers=answers, **attributes) as it:
        yield it


@contextmanager
def presenting(server, tmp_path, host="localhost", ca_key=None, issued=None):
    """The server with another certificate than its own."""
    ca_folder = server.folder.parent / "ca"
    own = ca_key is None
    ca_key = read_key(ca_folder / "ca.key") if own else ca_key
    ca = read_certificate(ca_folder / "ca.crt") if own else issue_ca(ca_key, "demo")
    key = new_key()
    certificate = issue_server_certificate(key, host, ca, ca_key, issued)
    (tmp_path / "c.crt").write_text(certificate_pem(certificate))
    write_key(key, tmp_path / "c.key")
    with serve(split_address(server.facts.server)[1], tmp_path / "c.crt", tmp_path / "c.key"):
        yield


def outcomes(kit):
    return {check.name: check.outcome for check in check_site(kit)}


def test_a_site_that_is_fit_passes_every_check(kit, server):
    with up(server) as handler:
        checks = list(check_site(kit))
    assert [check.name for check in checks] == [
        "site.yaml",
        "private key",
        "CA certificate",
        "address",
        "certificate",
        "server",
        "clock",
        "registered",
        "versions",
        "device",
        "state_dir",
        "approval",
        "audit log",
        "cache_dir",
        "dataset",
    ]
    wrong = [check for check in checks if check.outcome == "fail"]
    assert wrong == []
    assert "14 images of 14 patients" in checks[-1].found
    assert handler.paths == ["/health", ACTIVATE]


def test_all_checks_run_whatever_fails_each_in_one_line(kit):
    kit.site_file.write_text("name: clinic\n")
    kit.private_key.chmod(0o644)
    checks = list(check_site(kit))
    assert len(checks) == 15
    failed = {check.name for check in checks if check.outcome == "fail"}
    assert failed == {check.name for check in checks} - {"versions", "CA certificate"}
    for check in checks:
        assert "\n" not in check.found + check.remedy
        assert bool(check.remedy) == (check.outcome != "pass")


def test_the_budget_of_an_approved_recipe_is_shown(kit, tmp_path):
    recipe = "a" * 64

    def approved(**policy):
        site = load_site(kit.site_file).model_copy(update={"policy": Policy(**policy)})
        return check_approval(site.model_copy(update={"state_dir": tmp_path}))

    assert approved().found == "no recipe is approved: this site refuses every order"
    assert approved().outcome == "warn"
    left = approved(recipes=[recipe], max_messages=2)
    assert left.found == f"2 of 2 messages left for recipe {recipe[:16]}"
    for order in "xy":
        Budget(tmp_path / "budget.json").pay(recipe, 2, "order", order)
    left = approved(recipes=[recipe], max_messages=2)
    assert (left.outcome, left.found[:23]) == ("warn", "0 of 2 messages left fo")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "other"}, "name is other, but this kit is clinic's"),
        ({"divice": "cpu"}, "divice: no such key"),
    ],
)
def test_a_site_file_that_is_wrong(kit, change, says):
    content = yaml.safe_load(kit.site_file.read_text()) | change
    kit.site_file.write_text(yaml.safe_dump(content))
    check, _ = check_site_file(kit)
    assert check.outcome == "fail"
    assert says in check.found


def test_a_site_file_that_is_missing(kit):
    kit.site_file.unlink()
    check, site = check_site_file(kit)
    assert (check.outcome, site) == ("fail", None)
    assert "cannot be read" in check.found


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_that_others_can_reach(kit, mode):
    kit.private_key.chmod(mode)
    check = check_key(kit)
    assert check.outcome == "fail"
    assert check.remedy == f"chmod 600 {kit.private_key}"


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN OPENSSH PRIVATE KEY-----\n"])
def test_a_key_that_is_none(kit, server, content):
    kit.private_key.unlink()
    if content is not None:
        kit.private_key.write_bytes(content)
        kit.private_key.chmod(0o600)
    assert check_key(kit).outcome == "fail"
    with up(server) as handler:
        check = check_registered(kit, ask_server(kit))
    assert "no key to show" in check.found
    assert ACTIVATE not in handler.paths


def test_a_key_in_another_format(kit):
    write_key(new_key(), kit.private_key)
    assert "not a private key in OpenSSH format" in check_key(kit).found


def test_nothing_listens(kit):
    check = check_address(kit)
    assert check.outcome == "fail"
    assert "refused the connection" in check.found


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (TimeoutError(), "no answer within 10 s"),
        (socket.gaierror(-2, "Name or service not known"), "no such host name"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "Network is unreachable"),
    ],
)
def test_an_address_that_cannot_be_reached(kit, monkeypatch, error, says):
    def fail(*_):
        raise error

    monkeypatch.setattr(socket, "create_connection", fail)
    check = check_address(kit)
    assert check.outcome == "fail"
    assert says in check.found


def test_a_proxy_of_the_environment_is_what_is_tried(kit, monkeypatch):
    port = free_ports(1)
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("no_proxy", "")
    assert f"the proxy 127.0.0.1:{port}" in check_address(kit).found
    monkeypatch.setenv("no_proxy", "localhost")
    assert "proxy" not in check_address(kit).found


@pytest.mark.parametrize(
    ("days", "says"),
    [(-400, "has expired"), (+3, "is not valid yet")],
)
def test_a_certificate_of_another_time(kit, server, tmp_path, days, says):
    with presenting(server, tmp_path, issued=datetime.now(UTC) + timedelta(days=days)):
        check = check_certificate(ask_server(kit))
    assert check.outcome == "fail"
    assert says in check.found
    assert "clock" in check.found + check.remedy


def test_a_certificate_that_ends_soon(kit, server, tmp_path):
    with presenting(server, tmp_path, issued=datetime.now(UTC) - timedelta(days=380)):
        check = check_certificate(ask_server(kit))
    assert check.outcome == "warn"


def test_a_certificate_of_another_ca_of_the_same_name(kit, server, tmp_path):
    with presenting(server, tmp_path, ca_key=new_key()):
        answer = ask_server(kit)
    check = check_certificate(answer)
    assert check.outcome == "fail"
    assert "not of this federation's CA" in check.found
    assert check_server(answer).outcome == check_clock(answer).outcome == "fail"


def test_a_certificate_for_another_name(kit, server, monkeypatch):
    other = kit.facts.model_copy(update={"server": kit.facts.server.replace("localhost", "a.b")})
    lookup = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: lookup("localhost", *rest, **more)
    )
    with up(server):
        check = check_certificate(ask_server(type(kit)(kit.folder, other)))
    assert check.outcome == "fail"
    assert "for another name" in check.found
    assert "a.b" in check.found


def test_a_server_without_tls(kit, server):
    def answer(plain):
        connection, _ = plain.accept()
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        connection.close()

    with socket.create_server(("127.0.0.1", split_address(server.facts.server)[1])) as plain:
        plain.settimeout(10)
        thread = Thread(target=answer, args=(plain,))
        thread.start()
        check = check_certificate(ask_server(kit))
        thread.join()
    assert check.outcome == "fail"
    assert "no TLS connection" in check.found


@pytest.mark.parametrize("content", [None, "garbage"])
def test_a_ca_that_is_not_there(kit, server, content):
    kit.ca_certificate.unlink()
    if content is not None:
        kit.ca_certificate.write_text(content)
    with up(server):
        check = check_certificate(ask_server(kit))
    assert check.outcome == "fail"
    assert "no TLS connection" in check.found


@pytest.mark.parametrize(
    ("status", "says"),
    [(502, "the SuperLink behind it does not"), (503, "the SuperLink"), (404, "answers 404")],
)
def test_a_server_that_is_not_well(kit, server, status, says):
    with up(server, {"/health": (status, b""), ACTIVATE: (status, b"")}):
        answer = ask_server(kit)
        check, registered = check_server(answer), check_registered(kit, answer)
    assert check.outcome == registered.outcome == "fail"
    assert says in check.found


def shifted(seconds):
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("server_is", "outcome", "says"),
    [
        (0, "pass", "within"),
        (20, "pass", "within"),
        (60, "warn", "s behind"),
        (290, "warn", "5 min behind"),
        (600, "fail", "10 min behind"),
        (-3, "warn", "s ahead of"),
        (-10, "fail", "s ahead of"),
        (-600, "fail", "10 min ahead of"),
    ],
)
def test_the_clock(kit, server, server_is, outcome, says):
    with up(server, date=shifted(server_is)):
        check = check_clock(ask_server(kit))
    assert check.outcome == outcome
    assert says in check.found


@pytest.mark.parametrize("date", ["", "yesterday"])
def test_a_server_that_sends_no_time(kit, server, date):
    with up(server, date=date):
        assert check_clock(ask_server(kit)).outcome == "warn"


def test_the_clock_fails_where_flower_refuses():
    date = datetime(2026, 3, 1, tzinfo=UTC)
    for offset in (-TIMESTAMP_TOLERANCE - 2, SYSTEM_TIME_TOLERANCE + 2):
        for nearer, outcome in ((0, "fail"), (-3 if offset > 0 else 3, "warn")):
            moment = date.timestamp() + offset + nearer
            answer = Answer(200, {}, format_datetime(date, usegmt=True), moment)
            assert check_clock(answer).outcome == outcome


@pytest.mark.parametrize(
    ("answer", "outcome", "says"),
    [
        (KNOWN, "pass", "knows this site's key"),
        (UNKNOWN, "fail", "not admitted yet"),
        ((401, b'{"detail": "Invalid SuperNode authentication"}'), "fail", "refuses what"),
        ((403, b""), "fail", "answers 403"),
        ((200, b""), "fail", "takes any heartbeat"),
    ],
)
def test_what_the_server_says_of_the_key(kit, server, answer, outcome, says):
    with up(server, {ACTIVATE: answer}):
        check = check_registered(kit, ask_server(kit))
    assert check.outcome == outcome
    assert says in check.found


@pytest.mark.parametrize(
    ("package", "outcome", "install"),
    [
        ("mdmt", "fail", "mdmt-0.0.1-py3-none-any.whl"),
        ("flwr", "fail", "flwr==0.0.1"),
        ("torch", "warn", "torch==0.0.1"),
        ("timm", "warn", "timm==0.0.1"),
    ],
)
def test_versions_that_differ(kit, package, outcome, install):
    expected = kit.facts.versions
    assert check_versions(expected).outcome == "pass"
    check = check_versions(expected | {package: "0.0.1"})
    assert check.outcome == outcome
    assert check.remedy == f"pip install {install}"
    assert f"{package} {expected[package]} where the server has 0.0.1" in check.found


def test_a_package_that_is_not_installed():
    assert "is not installed" in check_versions({"no-such-package": "1"}).found


def test_a_gpu_that_is_not_there(kit):
    site = load_site(kit.site_file).model_copy(update={"device": "cuda:63"})
    check = check_device(site)
    assert check.outcome == "fail"
    assert "cuda:63 is not there" in check.found
    assert "nvidia-smi" in check.remedy


@pytest.mark.parametrize(("free", "outcome"), [(10**9, "warn"), (8 * 10**9, "pass")])
def test_the_memory_of_a_gpu(kit, monkeypatch, free, outcome):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 16 * 10**9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla")
    check = check_device(load_site(kit.site_file).model_copy(update={"device": "cuda:0"}))
    assert check.outcome == outcome
    assert f"{free / 10**9:.1f} of 16.0 GB free" in check.found


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    check = check_folder("state_dir", tmp_path / "file" / "state")
    assert check.outcome == "fail"
    assert "cannot be written to" in check.found
    assert "state_dir" in check.remedy


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EROFS, "cannot be written to: Read-only"),
    ],
)
def test_a_disk_that_takes_no_more(tmp_path, monkeypatch, code, says):
    def fail(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    check = check_folder("cache_dir", tmp_path / "cache")
    assert check.outcome == "fail"
    assert says in check.found


def test_little_space_is_a_warning_and_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    check = check_folder("cache_dir", tmp_path / "cache")
    assert check.outcome == "warn"
    assert "1.0 GB free" in check.found
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "outcome", "says"),
    [
        (lambda data: shutil.rmtree(data), "fail", "no such folder, for the table labels.csv"),
        (lambda data: (data / "images" / "3.png").unlink(), "fail", "3.png is not a file"),
        (lambda data: (data / "images" / "3.png").write_text("?"), "fail", "3.png"),
    ],
)
def test_a_dataset_that_is_wrong(kit, server, tmp_path, change, outcome, says):
    content = yaml.safe_load(kit.site_file.read_text())
    data = shutil.copytree(content["dataset"]["root"], tmp_path / "data")
    content["dataset"]["root"] = str(data)
    kit.site_file.write_text(yaml.safe_dump(content))
    change(data)
    with up(server):
        (check,) = (check for check in check_site(kit) if check.name == "dataset")
    assert check.outcome == outcome
    assert says in check.found
    assert "\n" not in check.found


def test_an_audit_log_that_was_cut_is_said_at_the_start(kit):
    """On such a log no message is recorded, so none would be sent."""
    kit.audit_head.write_text(json.dumps({"lines": 2, "hash": "1" * 64}))
    (check,) = (item for item in check_site(kit, starting=True) if item.outcome == "fail")
    assert check.name == "audit log"
    assert "2 of 2 lines are missing" in check.found
    assert str(kit.audit_head) in check.remedy


@pytest.mark.parametrize(("package", "fails"), [("mdmt", True), ("flwr", True), ("timm", False)])
def test_a_start_refuses_the_versions_that_the_check_refuses(kit, package, fails):
    facts = json.loads((kit.folder / KIT_FILE).read_text())
    facts["versions"][package] = "0.0.1"
    (kit.folder / KIT_FILE).write_text(json.dumps(facts))
    checks = check_site(open_site_kit(kit.folder), starting=True)
    failed = [item.name for item in checks if item.outcome == "fail"]
    assert failed == (["versions"] if fails else [])
