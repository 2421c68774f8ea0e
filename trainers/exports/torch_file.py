"""Trained ResNets as files of PyTorch, which `torch_resnet.py` reads."""

import dataclasses
import io
from typing import Any, Dict, Iterator, Tuple

from pretexture.loader.console.files import write_bytes
from pretexture.loader.console.paths import make_parent

from ..networks.layers import Scope
from .description import ExportError
from .saved_model import Source

try:
    import torch
except ImportError as error:
    raise ImportError(
        f"PyTorch cannot be imported ({error}): pip install 'pretexture[torch]'"
    ) from error

from .torch_resnet import ResNet


def check(source: Source) -> None:
    """Raises ExportError if the network is not a ResNet."""
    name = source.description.network.architecture
    if name != "resnet50":
        raise ExportError(
            f"--torch takes resnet50 only, and this network is a {name}: write it with --onnx, "
            "--frozen, --om, or as a SavedModel with --out"
        )


def write_torch(source: Source, path: str) -> None:
    """Writes a dict with `torch.save`, which `torch.load(path, weights_only=True)` reads.

    Its keys are `network` (arguments of `torch_resnet.ResNet`), `state_dict` and `description` (the
    fields of `Description` but the end points).

    Args:
        source: the network, a ResNet.
        path: path of the file to write; an existing file is replaced.

    Raises: ExportError if the network is not a ResNet, CheckpointError if the checkpoint does not
        fit, OSError.
    """
    check(source)
    network = source.description.network
    arguments: Dict[str, Any] = {
        "outputs": source.outputs,
        "mode": network.mode,
        "filters_factor": network.filters_factor,
        "last_relu": network.last_relu,
        "small_root": network.small_root,
        "patch_strides": network.patch_strides,
    }
    model = ResNet(**arguments)
    with torch.no_grad():
        tensors = dict(_tensors(model))
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        for name, value in source.weights.values(shapes).items():
            tensors[name].copy_(torch.from_numpy(value))
    description = dataclasses.asdict(source.description)
    del description["end_points"]
    file = io.BytesIO()
    torch.save(
        {"network": arguments, "state_dict": model.state_dict(), "description": description}, file
    )
    write_bytes(make_parent(path), file.getvalue())


def _tensors(model: ResNet) -> Iterator[Tuple[str, torch.Tensor]]:
    """A model's tensors as TensorFlow names and arranges them, for writing to them.

    TensorFlow numbers layers in order of creation, and `ResNet` makes them in the same order.
    """
    scope = Scope()
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            name = scope.layer("batch_normalization")
            yield f"{name}/gamma", layer.weight
            yield f"{name}/beta", layer.bias
            yield f"{name}/moving_mean", layer.running_mean
            yield f"{name}/moving_variance", layer.running_var
        elif isinstance(layer, torch.nn.Conv2d):
            yield f"{scope.layer('conv2d')}/kernel", layer.weight.permute(2, 3, 1, 0)
        elif isinstance(layer, torch.nn.Linear):  # in TensorFlow, a 1x1 convolution
            name = scope.layer("conv2d")
            yield f"{name}/kernel", layer.weight.t()[None, None]
            yield f"{name}/bias", layer.bias
