"""``mdmt server``: what is refused before anything is written, or stopped."""

from __future__ import annotations

import socket
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from builders import federation_dict
from cli_builders import errors, run_cli
from deployment import admit, free_ports

from mdmt.config import load_federation, save_config
from mdmt.deployment.keys import read_certificate, read_key
from mdmt.deployment.kits import open_server_kit, split_address
from mdmt.files import write_json
from server.deployment import submission
from server.deployment.certificates import certificate_pem, issue_server_certificate
from server.deployment.control import FlowerRun
from server.deployment.provision import provision
from server.run import RunDirectory


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A federation's file, with kits beside it."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "federation.yaml"
    file.write_text(yaml.safe_dump(federation_dict()))
    provision(
        load_federation(file), file, f"localhost:{free_ports()}", tmp_path / "kits", ["clinic"]
    )
    admit(open_server_kit(tmp_path / "kits" / "server"), "clinic")
    return file


@pytest.fixture
def superlink(monkeypatch):
    """A SuperLink on which run 7 is running; what was stopped is noted."""
    stopped = []
    monkeypatch.setattr(submission, "healthy", lambda kit: True)
    monkeypatch.setattr(submission, "list_runs", lambda kit: [FlowerRun("7", "running")])
    monkeypatch.setattr(submission, "stop_run", lambda kit, run: stopped.append(run))
    return stopped


def test_a_run_that_cannot_start_leaves_nothing_behind(config, tmp_path):
    """An empty folder would hide the run before it from --resume."""
    done = run_cli("server", "run", config)
    assert done.exit_code == 1
    assert errors(done) == [
        f"error: no SuperLink is running: start it with mdmt server start {tmp_path}/kits/server"
    ]
    other = config.with_name("other.yaml")
    other.write_text(yaml.safe_dump(federation_dict(name="other")))
    assert run_cli("server", "run", other).exit_code == 2
    assert not (tmp_path / "kits" / "server" / "runs").exists()


def test_a_run_without_an_admitted_site_is_refused(config, superlink, tmp_path):
    open_server_kit(tmp_path / "kits" / "server").public_key("clinic").unlink()
    done = run_cli("server", "run", config)
    assert done.exit_code == 1
    assert errors(done)[0].startswith("error: no site is admitted: run mdmt server admit")


def test_a_second_run_is_refused_and_the_first_left_alone(config, superlink, tmp_path):
    done = run_cli("server", "run", config, "--out", tmp_path / "second")
    assert done.exit_code == 1
    (line,) = errors(done)
    assert line.startswith("error: run 7 is running: ")
    assert not (tmp_path / "second").exists()


def test_two_submissions_at_the_same_moment_never_share_a_run_directory(
    config, superlink, tmp_path, monkeypatch
):
    monkeypatch.setattr(submission, "list_runs", lambda kit: [])
    monkeypatch.setattr("server.deployment.nodes.list_nodes", lambda kit: [])
    monkeypatch.setattr(submission, "follow_run", lambda kit, run: None)
    monkeypatch.setattr(submission, "control", lambda kit: nullcontext())
    given, second = [], []

    def start_run(ask, files, values):
        if not second:
            second.append(run_cli("server", "run", config, "--out", tmp_path / "second"))
        given.append(values["out"])
        return str(len(given))

    monkeypatch.setattr(submission, "start_run", start_run)
    run_cli("server", "run", config, "--out", tmp_path / "first")
    assert given == [tmp_path / "first"]
    assert second[0].exit_code == 1
    assert "runs already, as process" in errors(second[0])[0]
    assert not (tmp_path / "second").exists()


def test_a_run_under_way_is_watched_when_it_is_to_be_resumed_and_no_other(
    config, superlink, tmp_path
):
    kit = open_server_kit(tmp_path / "kits" / "server")
    loaded = load_federation(config)
    for name in ("first", "second"):
        save_config(loaded, tmp_path / name / "federation.yaml")
    write_json(kit.submissions, {"7": [str(tmp_path / "first"), 0]})
    done = run_cli("server", "run", config, "--out", tmp_path / "second", "--resume")
    assert done.exit_code == 1
    assert submission.make_ready(kit, loaded, tmp_path / "first") == "7"
    RunDirectory(tmp_path / "first", loaded).event("registration")
    assert submission.make_ready(kit, loaded, tmp_path / "first") == "7"
    assert superlink == []


def test_a_run_goes_back_only_if_it_is_resumed_stopped_and_kept_the_round(
    config, superlink, tmp_path, monkeypatch
):
    kit = open_server_kit(tmp_path / "kits" / "server")
    loaded = load_federation(config)
    save_config(loaded, tmp_path / "first" / "federation.yaml")
    back = ["server", "run", config, "--out", tmp_path / "first", "--from-round", "2"]
    assert errors(run_cli(*back)) == ["error: --from-round: needs --resume"]
    monkeypatch.setattr("server.deployment.nodes.list_nodes", lambda kit: [])
    write_json(kit.submissions, {"7": [str(tmp_path / "first"), 0]})
    done = run_cli(*back, "--resume")
    assert done.exit_code == 2
    assert errors(done)[-1].startswith(
        "error: --from-round: the run goes on; first mdmt server stop"
    )
    monkeypatch.setattr(submission, "list_runs", lambda kit: [])
    done = run_cli(*back, "--resume")
    assert done.exit_code == 2
    assert errors(done)[-1].endswith("does not keep this round; kept are the rounds none")


@pytest.mark.parametrize("ending", ["killed", "failed"])
def test_what_is_left_of_a_killed_run_is_stopped_when_it_is_resumed(
    config, superlink, tmp_path, monkeypatch, ending
):
    """Flower takes a ServerApp that was killed for running, for a minute."""
    kit = open_server_kit(tmp_path / "kits" / "server")
    run = RunDirectory(tmp_path / "first", load_federation(config))
    run.event("registration")
    if ending == "failed":
        run.event("failed", exit_code=1, message="")
    else:
        monkeypatch.setattr(submission, "is_running", lambda process: False)
    write_json(kit.submissions, {"7": [str(run.folder), 0]})
    assert submission.make_ready(kit, load_federation(config), run.folder) is None
    assert superlink == ["7"]


def test_status_shows_the_rounds_of_each_attempt_at_a_run(config, tmp_path):
    kit = open_server_kit(tmp_path / "kits" / "server")
    run = RunDirectory(tmp_path / "run", load_federation(config))
    for number in (1, 2, 3):
        run.event("round", round=number, rounds=8)
    run.event("round", round=3, rounds=8)
    write_json(kit.submissions, {"1": [str(run.folder), 0], "2": [str(run.folder), 3]})
    run.event("round", round=4, rounds=8)
    run.event("references", sites=["north"], rounds=8)
    assert submission.describe_run(kit, "1") == ("3 of 8", str(run.folder))
    assert submission.describe_run(kit, "2") == ("4 of 8", str(run.folder))
    (run.folder / "events.jsonl").write_text("{]\n")
    assert submission.describe_run(kit, "2")[0] == "its events are damaged"
    assert submission.describe_run(kit, "3") == ("", "")


def test_an_expired_certificate_is_named_before_anything_starts(config, tmp_path):
    kit = open_server_kit(tmp_path / "kits" / "server")
    ca = tmp_path / "kits" / "ca"
    expired = issue_server_certificate(
        read_key(kit.private_key),
        "localhost",
        read_certificate(ca / "ca.crt"),
        read_key(ca / "ca.key"),
        datetime.now(UTC) - timedelta(days=400),
    )
    kit.certificate.write_text(certificate_pem(expired))
    done = run_cli("server", "start", kit.folder)
    assert done.exit_code == 2
    (line,) = errors(done)
    assert f"{kit.certificate}: valid only from" in line
    assert "run mdmt provision again" in line
    assert not (kit.run_folder / "superlink.log").exists()


def test_another_user_than_the_servers_is_refused(config, superlink, tmp_path, monkeypatch):
    """The server could neither read nor write what that user makes in the kit."""
    (tmp_path / "kits" / "server" / "superlink.db").touch()
    monkeypatch.setattr("os.geteuid", lambda: -1)
    for command in (["run", config], ["revoke", "clinic"]):
        done = run_cli("server", *command)
        assert done.exit_code == 2
        (line,) = errors(done)
        assert "run this command as" in line
    assert open_server_kit(tmp_path / "kits" / "server").admitted == ("clinic",)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_port_that_is_taken_is_named_before_anything_starts(config, tmp_path, which):
    kit = open_server_kit(tmp_path / "kits" / "server")
    ports = [split_address(kit.facts.server)[1], kit.facts.superlink_port, kit.facts.health_port]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports[which]))
        taken.listen()
        done = run_cli("server", "start", kit.folder)
    assert done.exit_code == 1
    (line,) = errors(done)
    assert line.startswith(f"error: port {ports[which]} cannot be opened: Address already in use")
    assert not (kit.run_folder / "superlink.log").exists()
