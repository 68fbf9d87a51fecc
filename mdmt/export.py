"""Export one task of a release: ONNX, or a program of torch.export, with a description.

The exported network takes grey images in [0, 1] and contains the normalisation, the backbone and
the head. The other steps of preprocessing are in ``metadata.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mdmt.data.batches import normalise
from mdmt.errors import BadInput, RunError
from mdmt.files import atomic_path, write_json

if TYPE_CHECKING:
    from mdmt.config import FederationConfig
    from mdmt.releases import Release

Format = Literal["onnx", "pt2"]
TOLERANCE = 1e-4
"""Largest difference of an output from that of PyTorch, relative to the largest output."""


class Exported(nn.Module):
    """Grey images, float32 (N, 1, S, S) in [0, 1] → outputs of the head, float32 (N, K)."""

    def __init__(self, network: nn.Module, config: FederationConfig) -> None:
        super().__init__()
        self.network, self._config = network, config

    def forward(self, images: Tensor) -> Tensor:
        """Normalise, and run the backbone and the head."""
        outputs = self.network(normalise(images, self._config))
        assert isinstance(outputs, Tensor)
        return outputs


def export(
    release: Release, task: str, out: Path, *, site: str | None = None, format: Format = "onnx"
) -> Path:
    """Write ``TASK.onnx`` or ``TASK.pt2`` and ``metadata.json`` to a folder.

    The exported network is run on random images. Its outputs must be those of PyTorch within
    `TOLERANCE`.

    Parameters
    ----------
    release : Release
    task : str
    out : Path
        A new or empty folder.
    site : str, optional
        Needed if several sites have a head of the task.
    format : {"onnx", "pt2"}

    Returns
    -------
    Path
        The file of the network.

    Raises
    ------
    BadInput
        The release has no such head, a package is missing, or the folder is not empty.
    RunError
        The outputs differ.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(f"{out}: is not an empty folder; choose another --out")
    network = Exported(release.model(task, site), release.config).eval()
    side = release.config.model.image_size
    images = torch.rand(2, 1, side, side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = network(images).numpy()
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{task}.{format}"
    save, run = (_save_onnx, _run_onnx) if format == "onnx" else (_save_pt2, _run_pt2)
    with atomic_path(file) as temporary:
        save(network, images, temporary)
        difference = float(np.abs(run(temporary, images) - expected).max())
        if not difference <= TOLERANCE * max(float(np.abs(expected).max()), 1.0):
            raise RunError(f"{file}: not written: its outputs differ by {difference:.2g}")
    write_json(out / "metadata.json", _describe(release, task, format, difference, expected[0]))
    return file


def _save_onnx(network: nn.Module, images: Tensor, file: Path) -> None:
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise BadInput("ONNX needs packages that are missing: pip install mdmt[export]") from error
    torch.onnx.export(
        network,
        (images,),
        str(file),
        input_names=["images"],
        output_names=["outputs"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def _run_onnx(file: Path, images: Tensor) -> NDArray[np.floating]:
    import onnxruntime

    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {"images": images.numpy()})
    return np.asarray(outputs)


def _save_pt2(network: nn.Module, images: Tensor, file: Path) -> None:
    shapes = {"images": {0: torch.export.Dim("batch")}}
    program = torch.export.export(network, (images,), dynamic_shapes=shapes)
    with file.open("wb") as stream:
        torch.export.save(program, stream)


def _run_pt2(file: Path, images: Tensor) -> NDArray[np.floating]:
    with file.open("rb") as stream, torch.inference_mode():
        outputs = torch.export.load(stream).module()(images)
    return np.asarray(outputs)


def _describe(
    release: Release, task: str, format: Format, difference: float, outputs: NDArray[np.floating]
) -> dict[str, Any]:
    """Return the content of ``metadata.json``, with the keys of a MONAI bundle where they fit.

    `outputs` (K,) are those of one image, for the example of decoding.
    """
    config, space = release.config, release.config.space(task)
    side, decoded = config.model.image_size, space.decode(outputs[None])[0]
    return {
        "name": f"{config.name}: {task}",
        "intended_use": "research only; not a medical device",
        "federation": {"name": config.name, "run": release.run, "round": release.rounds[task]},
        "format": format,
        "largest_difference_from_pytorch": difference,
        "network_data_format": {
            "inputs": {
                "images": {
                    "type": "radiograph",
                    "format": "grey",
                    "num_channels": 1,
                    "spatial_shape": [side, side],
                    "dtype": "float32",
                    "value_range": [0, 1],
                }
            },
            "outputs": {
                "outputs": {"type": space.kind, "num_channels": space.n_outputs, "dtype": "float32"}
            },
        },
        "task": space.model_dump(mode="json"),
        "predictions": list(space.prediction_names),
        "preprocessing": config.preprocessing.model_dump(mode="json"),
        "normalisation": "in the network: images in [0, 1] go in",
        "decoding_example": {"outputs": outputs.tolist(), "predictions": decoded.tolist()},
    }
