from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mdmt.data.images
from mdmt.config import PreprocessingConfig
from mdmt.data import cache
from mdmt.data.cache import open_pixels
from mdmt.data.images import read_radiograph
from mdmt.data.manifest import Manifest
from mdmt.data.preprocessing import preprocess
from mdmt.errors import DataError, ImageError, PolicyError

CONFIG = PreprocessingConfig()
SIZE = 24


def manifest_of(folder: Path, n: int, masks: bool = False) -> Manifest:
    return Manifest(
        images=tuple(folder / f"{i}.png" for i in range(n)),
        rows=tuple(f"labels.csv:{i + 2}" for i in range(n)),
        patients=np.array([str(i) for i in range(n)]),
        splits=np.array(["train"] * n),
        targets={},
        masks=tuple(folder / f"{i}-mask.png" if masks else None for i in range(n)),
    )


def draw(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 30), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    folder = tmp_path / "images"
    folder.mkdir()
    manifest = manifest_of(folder, 6)
    for seed, path in enumerate(manifest.images):
        draw(path, seed)
    return manifest


@pytest.fixture
def cache_dir(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every image that is decoded from here on."""
    paths: list[Path] = []

    def spy(path: Path, *, voi: bool = False) -> np.ndarray:
        paths.append(path)
        return read_radiograph(path, voi=voi)

    monkeypatch.setattr(mdmt.data.images, "read_radiograph", spy)
    return paths


def expected(manifest: Manifest, config: PreprocessingConfig = CONFIG) -> np.ndarray:
    return np.stack([preprocess(read_radiograph(p), None, config, SIZE) for p in manifest.images])


# Space


def test_a_cache_that_is_too_large_is_not_built(manifest: Manifest, cache_dir: Path) -> None:
    """Six images, each with its position, beside what the folder has already."""
    size = 6 * (SIZE * SIZE + 8)
    fits = (size + 100) / 1e9
    cache_dir.mkdir(exist_ok=True)
    (cache_dir / "other.pixels").write_bytes(bytes(101))
    with pytest.raises(PolicyError, match=r"^policy: max_cache allows .* GB, the images of this"):
        open_pixels(manifest, CONFIG, SIZE, cache_dir=cache_dir, max_gigabytes=fits)
    assert [file.name for file in cache_dir.iterdir()] == ["other.pixels"]
    (cache_dir / "other.pixels").write_bytes(bytes(100))
    open_pixels(manifest, CONFIG, SIZE, cache_dir=cache_dir, max_gigabytes=fits)
    open_pixels(manifest, CONFIG, SIZE, cache_dir=cache_dir, max_gigabytes=1e-9)  # built already


# Bad images


@pytest.mark.parametrize("workers", [0, 2])
def test_the_first_bad_image_is_an_error_naming_its_row(
    manifest: Manifest, cache_dir: Path, workers: int
) -> None:
    manifest.images[2].write_text("no picture")
    manifest.images[4].unlink()
    with pytest.raises(ImageError, match=rf"^labels.csv:4: {manifest.images[2]}: .*"):
        open_pixels(manifest, CONFIG, SIZE, cache_dir=cache_dir, workers=workers)
    assert list(cache_dir.iterdir()) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_images_are_counted_and_named_each_time(
    manifest: Manifest, cache_dir: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    good = expected(manifest)
    manifest.images[0].write_text("no picture")
    Image.new("L", (40, 40), 9).save(manifest.images[3])
    for _ in range(2):
        caplog.clear()
        pixels, positions = open_pixels(
            manifest, CONFIG, SIZE, cache_dir=cache_dir, workers=workers, on_bad_image="skip"
        )
        assert positions.tolist() == [1, 2, 4, 5]
        np.testing.assert_array_equal(pixels, good[positions])
        text = caplog.text
        assert "labels.csv:2" in text
        assert str(manifest.images[0]) in text
        assert "labels.csv:5" in text
        assert "skipped 2 of 6 images" in text
        assert all(record.levelno == logging.WARNING for record in caplog.records)


def test_a_cache_with_skipped_images_is_still_an_error_where_errors_are_asked_for(
    manifest: Manifest, cache_dir: Path
) -> None:
    manifest.images[3].write_text("no picture")
    open_pixels(manifest, CONFIG, SIZE, cache_dir=cache_dir, on_bad_image="skip")
    with pytest.raises(ImageError, match=r"labels.csv:5"):
        open_pixels(manifest, CONFIG, SIZE, cache_dir=cache_dir)


def test_skipped_images_come_back_once_they_can_be_read(
    manifest: Manifest, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_decoder(path: Path, *, voi: bool = False) -> np.ndarray:
        if path == manifest.images[1]:
            raise ImageError(f"{path}: needs a decoder")
        return read_radiograph(path, voi=voi)

    with monkeypatch.context() as patched:
        patched.setattr(mdmt.data.images, "read_radiograph", no_decoder)
        _, positions = open_pixels(manifest, CONFIG, SIZE, cache_dir=cache_dir, on_bad_image="skip")
        assert positions.tolist() == [0, 2, 3, 4, 5]
    pixels, positions = open_pixels(manifest, CONFIG, SIZE, cache_dir=cache_dir)
    assert positions.tolist() == [0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(pixels, expected(manifest))


def test_images_that_preprocessing_refuses_are_named(manifest: Manifest, cache_dir: Path) -> None:
    spot = np.zeros((100, 100), np.uint8)
    spot[0, 0] = 255
    Image.fromarray(spot).save(manifest.images[5])
    with pytest.raises(ImageError, match=rf"labels.csv:7: {manifest.images[5]}: percentiles"):
        open_pixels(manifest, CONFIG, SIZE, cache_dir=cache_dir)
    with pytest.raises(ImageError, match=rf"labels.csv:2: {manifest.images[0]}: .*lung_box"):
        open_pixels(manifest, PreprocessingConfig(lung_box=True), SIZE, cache_dir=cache_dir)


def test_without_any_usable_image_there_is_an_error(manifest: Manifest, cache_dir: Path) -> None:
    for path in manifest.images:
        path.write_text("no picture")
    with pytest.raises(DataError, match="none of 6 images"):
        open_pixels(manifest, CONFIG, SIZE, cache_dir=cache_dir, on_bad_image="skip")


# Content


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_pixels_are_those_of_each_image_in_order(
    manifest: Manifest, cache_dir: Path, workers: int
) -> None:
    steps: list[tuple[int, int]] = []
    pixels, positions = open_pixels(
        manifest,
        CONFIG,
        SIZE,
        cache_dir=cache_dir,
        workers=workers,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert isinstance(pixels, np.memmap)
    assert not pixels.flags.writeable
    np.testing.assert_array_equal(pixels, expected(manifest))
    assert positions.dtype == np.intp
    assert positions.tolist() == list(range(6))
    assert steps == [(i + 1, 6) for i in range(6)]


def test_masks_crop_the_image(tmp_path: Path, manifest: Manifest, cache_dir: Path) -> None:
    masked = manifest_of(manifest.images[0].parent, 1, masks=True)
    lungs = np.zeros((40, 30), bool)
    lungs[10:20, 10:20] = True
    Image.fromarray(lungs).save(masked.masks[0] or "")
    config = PreprocessingConfig(lung_box=True)
    pixels, _ = open_pixels(masked, config, SIZE, cache_dir=cache_dir)
    image = read_radiograph(masked.images[0])
    np.testing.assert_array_equal(pixels[0], preprocess(image, lungs, config, SIZE))
    lungs[10:30] = True
    Image.fromarray(lungs).save(masked.masks[0] or "")
    again, _ = open_pixels(masked, config, SIZE, cache_dir=cache_dir)
    np.testing.assert_array_equal(again[0], preprocess(image, lungs, config, SIZE))


def test_few_images_are_in_memory_at_a_time(
    manifest: Manifest, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, lock, ahead = 0, threading.Lock(), []

    def counted(path: Path, *, voi: bool = False) -> np.ndarray:
        nonlocal started
        with lock:
            started += 1
        return read_radiograph(path, voi=voi)

    def slow(done: int, total: int) -> None:
        time.sleep(0.02)  # the disk is slow: do the decoders wait for it?
        ahead.append(started - done)

    monkeypatch.setattr(mdmt.data.images, "read_radiograph", counted)
    many = manifest.select(np.arange(60) % 6)
    open_pixels(many, CONFIG, SIZE, cache_dir=cache_dir, workers=2, progress=slow)
    assert len(ahead) == 60
    assert max(ahead) <= 4


# Reuse


def test_a_second_opening_decodes_nothing(
    manifest: Manifest, cache_dir: Path, decoded: list[Path]
) -> None:
    first, _ = open_pixels(manifest, CONFIG, SIZE, cache_dir=cache_dir)
    assert decoded == list(manifest.images)
    again, positions = open_pixels(manifest, CONFIG, SIZE, cache_dir=cache_dir, workers=2)
    assert len(decoded) == 6
    np.testing.assert_array_equal(first, again)
    assert positions.tolist() == list(range(6))


@pytest.mark.parametrize(
    ("change", "rebuilt"),
    [
        ({"clip": (1.0, 99.0)}, True),
        ({"keep_aspect": False}, True),
        ({"voi": True}, True),
        ({"mean": (0.4,), "std": (0.2,)}, False),
    ],
)
def test_only_fields_that_change_pixels_rebuild(
    manifest: Manifest,
    cache_dir: Path,
    decoded: list[Path],
    change: dict[str, object],
    rebuilt: bool,
) -> None:
    open_pixels(manifest, CONFIG, SIZE, cache_dir=cache_dir)
    config = CONFIG.model_copy(update=change)
    pixels, _ = open_pixels(manifest, config, SIZE, cache_dir=cache_dir)
    assert len(decoded) == (12 if rebuilt else 6)
    np.testing.assert_array_equal(pixels, expected(manifest, config))


def test_another_size_rebuilds(manifest: Manifest, cache_dir: Path) -> None:
    open_pixels(manifest, CONFIG, SIZE, cache_dir=cache_dir)
    pixels, _ = open_pixels(manifest, CONFIG, 2 * SIZE, cache_dir=cache_dir)
    assert pixels.shape == (6, 2 * SIZE, 2 * SIZE)


def test_a_touched_or_replaced_image_rebuilds(
    manifest: Manifest, cache_dir: Path, decoded: list[Path]
) -> None:
    open_pixels(manifest, CONFIG, SIZE, cache_dir=cache_dir)
    status = manifest.images[3].stat()
    os.utime(manifest.images[3], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    open_pixels(manifest, CONFIG, SIZE, cache_dir=cache_dir)
    assert len(decoded) == 12
    draw(manifest.images[3], seed=99)
    pixels, _ = open_pixels(manifest, CONFIG, SIZE, cache_dir=cache_dir)
    np.testing.assert_array_equal(pixels, expected(manifest))


def test_sites_share_a_folder_without_meeting(manifest: Manifest, cache_dir: Path) -> None:
    whole, _ = open_pixels(manifest, CONFIG, SIZE, cache_dir=cache_dir)
    backwards = manifest.select(np.arange(6)[::-1])
    other, _ = open_pixels(backwards, CONFIG, SIZE, cache_dir=cache_dir)
    np.testing.assert_array_equal(other, whole[::-1])
    assert len(list(cache_dir.iterdir())) == 2


def test_relative_paths_are_those_of_the_working_directory(
    manifest: Manifest, cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for name, seed in (("a", 0), ("b", 1)):
        (tmp_path / name).mkdir()
        draw(tmp_path / name / "0.png", seed)
        os.utime(tmp_path / name / "0.png", ns=(0, 0))
        monkeypatch.chdir(tmp_path / name)
        pixels, _ = open_pixels(manifest_of(Path(), 1), CONFIG, SIZE, cache_dir=cache_dir)
        results.append(pixels)
    assert not np.array_equal(*results)


def test_opening_5000_images_decodes_none_of_them(
    tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(tmp_path / "0.png", 0)
    one = manifest_of(tmp_path, 1)
    for i in range(1, 5000):
        os.link(tmp_path / "0.png", tmp_path / f"{i}.png")
    manifest = manifest_of(tmp_path, 5000)
    image, _ = open_pixels(one, CONFIG, 4, cache_dir=cache_dir)
    # The file of such a cache, written by hand to save 5,000 decodes.
    name = f"{cache.cache_key(manifest, CONFIG, 4)}.pixels"
    tail = np.arange(5000, dtype="<i8").tobytes()
    (cache_dir / name).write_bytes(np.repeat(image, 5000, axis=0).tobytes() + tail)
    monkeypatch.setattr(cache, "_load", lambda *_: pytest.fail("an image was decoded"))
    pixels, positions = open_pixels(manifest, CONFIG, 4, cache_dir=cache_dir)
    assert pixels.shape == (5000, 4, 4)
    assert positions.tolist() == list(range(5000))


def test_opening_imports_no_decoder(manifest: Manifest, cache_dir: Path) -> None:
    open_pixels(manifest, CONFIG, SIZE, cache_dir=cache_dir)
    # The configuration is stood in for: what it imports is not this module's business.
    code = f"""
import sys, types, numpy as np
from pathlib import Path
from mdmt.data.cache import open_pixels
from mdmt.data.manifest import Manifest
images = tuple(Path(p) for p in {[str(p) for p in manifest.images]})
n = len(images)
text = np.array([""] * n)
fields = dict(clip=[2.0, 98.0], keep_aspect=True, lung_box=False, voi=False)
config = types.SimpleNamespace(model_dump=lambda **_: fields, lung_box=False)
m = Manifest(images, ("",) * n, text, text, {{}}, (None,) * n)
pixels, _ = open_pixels(m, config, {SIZE}, cache_dir=Path({str(cache_dir)!r}))
assert "mdmt.data.images" not in sys.modules, "rebuilt"
print([n for n in ("torch", "torchvision", "pydicom", "PIL", "scipy") if n in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]\n", "")


# Interrupted and concurrent builds


def test_an_interrupted_build_leaves_nothing(manifest: Manifest, cache_dir: Path) -> None:
    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_pixels(manifest, CONFIG, SIZE, cache_dir=cache_dir, workers=2, progress=interrupt)
    assert list(cache_dir.iterdir()) == []


BUILDER = """
import os, signal, sys, numpy as np
from pathlib import Path
from mdmt.config import PreprocessingConfig
from mdmt.data import images, preprocessing  # so that builders differ by no import
from mdmt.data.cache import open_pixels
from mdmt.data.manifest import Manifest

folder, cache_dir, size, die_at = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:])
files = tuple(folder / f"{i}.png" for i in range(6))
text = np.array([""] * 6)
manifest = Manifest(files, ("",) * 6, text, text, {}, (None,) * 6)

def step(done, total):
    if done == die_at:
        os.kill(os.getpid(), signal.SIGKILL)

print("ready", flush=True)
sys.stdin.readline()
open_pixels(
    manifest, PreprocessingConfig(), size, cache_dir=cache_dir, workers=2, progress=step
)
"""


def run_builders(n: int, manifest: Manifest, cache_dir: Path, die_at: int = 0) -> list[int]:
    """Let n processes build the same cache at once; their exit codes."""
    folder = manifest.images[0].parent
    command = [sys.executable, "-c", BUILDER, *map(str, (folder, cache_dir, SIZE, die_at))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    builders = [subprocess.Popen(command, **pipes) for _ in range(n)]
    for builder in builders:
        assert builder.stdout.readline() == "ready\n"
    for builder in builders:
        builder.stdin.write("go\n")
        builder.stdin.flush()
    for builder in builders:
        builder.communicate(timeout=60)
    return [builder.returncode for builder in builders]


def test_a_killed_build_is_never_opened_and_later_swept(
    manifest: Manifest, cache_dir: Path
) -> None:
    assert run_builders(1, manifest, cache_dir, die_at=3) == [-signal.SIGKILL]
    (left,) = cache_dir.iterdir()  # nothing of ours ran any more
    pixels, _ = open_pixels(manifest, CONFIG, SIZE, cache_dir=cache_dir)
    np.testing.assert_array_equal(pixels, expected(manifest))
    assert left.exists()  # it might be a living builder's
    os.utime(left, (0, 0))
    open_pixels(manifest, CONFIG, 2 * SIZE, cache_dir=cache_dir)
    assert not left.exists()


def test_concurrent_builders_end_with_one_valid_cache(
    manifest: Manifest, cache_dir: Path, decoded: list[Path]
) -> None:
    assert run_builders(3, manifest, cache_dir) == [0, 0, 0]
    assert len(list(cache_dir.iterdir())) == 1
    pixels, _ = open_pixels(manifest, CONFIG, SIZE, cache_dir=cache_dir)
    assert decoded == []
    np.testing.assert_array_equal(pixels, expected(manifest))


def test_an_image_that_changes_during_the_build_is_not_cached(
    manifest: Manifest, cache_dir: Path
) -> None:
    def change(done: int, total: int) -> None:
        if done == 4:
            draw(manifest.images[0], seed=50)

    with pytest.raises(DataError, match="changed during the build"):
        open_pixels(manifest, CONFIG, SIZE, cache_dir=cache_dir, progress=change)
    assert list(cache_dir.iterdir()) == []
