"""What ``import mdmt`` offers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from builders import federation_dict, synthetic_site
from cli_builders import run_cli
from PIL import Image

import mdmt
from mdmt.data.batches import normalise
from mdmt.data.images import read_radiograph
from mdmt.data.preprocessing import preprocess
from mdmt.errors import BadInput, ConfigError


def test_the_public_names() -> None:
    """Adding a name is a decision; removing one breaks scripts."""
    assert mdmt.__all__ == [
        "Run",
        "Study",
        "load_config",
        "load_release",
        "simulate",
        "study",
        "validate",
    ]
    assert set(mdmt.__all__) <= set(dir(mdmt))
    with pytest.raises(AttributeError, match="module mdmt has no attribute simulat"):
        mdmt.simulat  # noqa: B018


def test_the_import_is_lazy() -> None:
    """``import mdmt`` loads nothing of the method; using a name does."""
    code = "import sys, mdmt; assert 'torch' not in sys.modules and 'mdmt.api' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_from_a_dictionary_to_predictions(tmp_path: Path) -> None:
    sites = {
        "clinic": synthetic_site(tmp_path, "severity"),
        "hospital": synthetic_site(tmp_path, "prognosis"),
    }
    config = federation_dict(sites=sites, references=["constant"])
    reports = mdmt.validate(config)
    assert [len(report.errors) for report in reports.values()] == [0, 0]
    events: list[str] = []
    run = mdmt.simulate(
        config,
        tmp_path / "run",
        overrides=["training.rounds=1"],
        on_event=lambda event: events.append(event["event"]),
    )
    assert run.outcome == "done"
    assert run.metrics is not None
    assert run.metrics["checkpoints"]["last"]["round"] == 1
    assert events[-1] == "done"
    assert run.report().read_text().startswith("<!DOCTYPE html>")

    release, images = mdmt.load_release(run.folder), sorted(tmp_path.rglob("*.dcm"))[:3]
    predicted = release.predict(images)
    assert {name: array.shape for name, array in predicted.items()} == {
        "prognosis": (3, 2),
        "severity": (3, 6),
    }
    one = preprocess(read_radiograph(images[0]), None, release.config.preprocessing, 32)
    pixels = torch.from_numpy(one)[None, None].float() / 255
    with torch.inference_mode():
        outputs = release.model("severity")(normalise(pixels, release.config))
    decoded = release.config.space("severity").decode(outputs.numpy())
    assert np.allclose(decoded[0], predicted["severity"][0], atol=1e-6)
    with pytest.raises(BadInput, match="name a site with a head of severity: clinic"):
        release.model("severity", "hospital")
    with pytest.raises(BadInput, match="name a site with a head of age: none"):
        release.model("age")
    with pytest.raises(BadInput, match="is not empty"):
        mdmt.simulate(config, tmp_path / "run")


def test_a_mistake_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"training\.round") as error:
        mdmt.load_config("demo", ["training.round=5"])
    assert "\n" not in str(error.value)


def test_the_page_about_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code runs in one piece, with a single round."""
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    *code, load = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    Image.fromarray(np.arange(4096, dtype=np.uint8).reshape(64, 64)).save("images/a.png")
    short = "training.rounds=1", "training.local_steps=1", "references=[local]"
    found: dict[str, Any] = {}
    exec("\n".join(code).replace('"training.rounds=3"', ", ".join(map(repr, short))), found)
    assert found["run"].outcome == "done"
    assert [array.shape for array in found["predictions"].values()] == [(1, 2), (1, 6)]
    assert found["names"] == ("MILD", "SEVERE")
    for command in re.findall(r"^    mdmt (export .*?)(?: *#.*)?$", page, re.MULTILINE):
        result = run_cli(*command.split())
        assert result.exit_code == 0, result.output
    exec(load, found)
    session = onnxruntime.InferenceSession("severity-network/severity.onnx")
    images = np.random.default_rng(0).random((3, 1, 64, 64), dtype=np.float32)
    (outputs,) = session.run(None, {"images": images})
    expected = found["program"](torch.from_numpy(images)).detach().numpy()
    assert np.allclose(outputs, expected, atol=1e-4)
    facts = json.loads(Path("severity-network/metadata.json").read_text())
    example = facts["decoding_example"]
    decoded = np.clip(1.5 + 1.5 * np.array(example["outputs"]), 0, 3)  # the range is [0, 3]
    assert np.allclose(decoded, example["predictions"])
    assert "not an empty folder" in run_cli(*command.split()).output
