"""A full disk is called a full disk, with the path, and nothing that was there is lost."""

from __future__ import annotations

import errno

import pytest
import torch
from cli_builders import errors, run_cli
from disks import full_disk

from mdmt.checkpoints import RoundFiles
from mdmt.errors import DiskFullError
from mdmt.files import naming_full_disk, write_text
from server.run import RunDirectory
from server.update_buffer import UpdateBuffer


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_the_path_is_named(tmp_path, number):
    raises = pytest.raises(DiskFullError, match="the disk is full")
    with raises as caught, naming_full_disk(tmp_path / "file"):
        raise OSError(number, "text of the system")
    assert str(caught.value).startswith(f"{tmp_path / 'file'}: ")
    assert isinstance(caught.value, OSError), "for callers that handle any error of a disk"


def test_other_errors_stay_as_they_are(tmp_path):
    for error in (OSError(errno.EROFS, "read-only"), ValueError("No space in this text")):
        with pytest.raises(type(error)) as caught, naming_full_disk(tmp_path):
            raise error
        assert caught.value is error


def test_what_a_file_had_stays(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    file = tmp_path / "file"
    write_text(file, "before")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DiskFullError, match=f"{file}: No space left"):
        write_text(file, "after")
    assert [(found, found.read_text()) for found in tmp_path.iterdir()] == [(file, "before")]


def test_every_writer_on_a_disk_that_is_really_full(tmp_path, make_config):
    folder = tmp_path / "disk"
    with full_disk(folder):
        with pytest.raises(DiskFullError, match="round-00001"):
            RoundFiles(folder, {}).save(1, {"x": torch.zeros(99_999)})
        with pytest.raises(DiskFullError, match=r"history\.jsonl"):
            RunDirectory(folder, make_config()).history({"text": "x" * 9999})
        with pytest.raises(DiskFullError, match=str(folder)), UpdateBuffer(folder, 0) as buffer:
            buffer.put("site", bytes(99_999))
        with pytest.raises(DiskFullError, match="file"):
            write_text(folder / "file", "x" * 9999)


def test_a_command_says_it_in_one_line(tmp_path):
    with full_disk(tmp_path / "disk"):
        done = run_cli(
            *("provision", "demo", "--server", "localhost:9092", "--out", tmp_path / "disk")
        )
    assert done.exit_code == 1
    (line,) = errors(done)
    assert line.startswith(f"error: {tmp_path / 'disk'}")
    assert "the disk is full; free space" in line
