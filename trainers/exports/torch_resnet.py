"""ResNet-50s that `pretexture export --torch FILE` writes, as modules of PyTorch.

This file needs PyTorch and nothing else: copy it to where it is needed, or import it from an
installed Pretexture.

    model = load("FILE")
    end_points = model(images)      # float32 [N, 3, H, W], any size
    end_points["pre_logits"]        # float32 [N, channels]
"""

from typing import Dict

import torch
from torch import Tensor, nn
from torch.nn import functional


def load(path: str) -> "ResNet":
    """A network with its trained weights, on the CPU, in inference mode.

    The file has the keys `network` (arguments of `ResNet`), `state_dict`, and `description`: a dict
    that says, among other things, which pipeline makes the network's input.

    Args:
        path: path of a file that `pretexture export --torch` has written.
    """
    saved = torch.load(path, map_location="cpu", weights_only=True)
    model = ResNet(**saved["network"])
    model.load_state_dict(saved["state_dict"])
    return model.eval()


class ResNet(nn.Module):
    """A ResNet of 50 layers: v1 (He et al., 2015) or v2, pre-activated (He et al., 2016).

    A unit's stride is in its 3x3 convolution.

    Args:
        outputs: number of the logits.
        mode: "v1" or "v2".
        filters_factor: widening factor. The root has 16 x filters_factor channels, block b has
            32 x filters_factor x 2**b.
        last_relu: whether v2 ends in a ReLU. v1 always does.
        small_root: whether the first convolution is 3x3 with stride 1, without pooling.
        patch_strides: whether the root convolution has stride 1 and the blocks 1, 2, 2, 1, instead
            of 2 and 1, 2, 2, 2.
    """

    def __init__(
        self,
        outputs: int,
        mode: str = "v2",
        filters_factor: float = 4.0,
        last_relu: bool = True,
        small_root: bool = False,
        patch_strides: bool = False,
    ):
        super().__init__()
        if mode not in ("v1", "v2"):
            raise ValueError(f"mode must be v1 or v2, not {mode!r}")
        if mode == "v1" and not last_relu:
            raise ValueError("mode v1 always ends in a ReLU: last_relu=False needs mode v2")
        bottleneck = BottleneckV1 if mode == "v1" else BottleneckV2
        width = int(16 * filters_factor)
        size, stride = (3, 1) if small_root else (7, 1 if patch_strides else 2)
        self.root = _conv(3, width, size, stride)
        self.root_norm = _norm(width) if mode == "v1" else None
        self.pooled = not small_root
        self.blocks = nn.ModuleList()
        channels, filters = width, 4 * width
        for units, stride in zip((3, 4, 6, 3), (1, 2, 2, 1) if patch_strides else (1, 2, 2, 2)):
            block = nn.Sequential(bottleneck(channels, filters, stride))
            for _ in range(units - 1):
                block.append(bottleneck(filters, filters, 1))
            self.blocks.append(block)
            channels, filters = filters, 2 * filters
        self.norm = _norm(channels) if mode == "v2" else None
        self.last_relu = last_relu
        self.logits = nn.Linear(channels, outputs)

    def forward(self, image: Tensor) -> Dict[str, Tensor]:
        """The end points by name.

        Args:
            image: float32 [N, 3, H, W].

        Returns: `after_root` and `block1` to `block4` [N, c, h, w], `pre_logits` [N, c], and
            `logits` [N, outputs].
        """
        x = self.root(image)
        if self.root_norm is not None:
            x = self.root_norm(x).relu()
        if self.pooled:
            # The padding counts as zeros, which max_pool2d's own padding does not.
            x = functional.max_pool2d(functional.pad(x, (1, 1, 1, 1)), 3, 2)
        end_points = {"after_root": x}
        for number, block in enumerate(self.blocks, 1):
            x = end_points[f"block{number}"] = block(x)
        if self.norm is not None:
            x = self.norm(x)
            if self.last_relu:
                x = x.relu()
        x = end_points["pre_logits"] = x.mean((2, 3))
        end_points["logits"] = self.logits(x)
        return end_points


class BottleneckV1(nn.Module):
    """Convolutions 1x1, 3x3 and 1x1, each normalised, added to the shortcut, then ReLU.

    Args:
        channels: number of the input's channels.
        filters: number of the output's channels.
        stride: stride of the 3x3 convolution. If it is not 1, or if the number of channels changes,
            the shortcut is projected and normalised.
    """

    def __init__(self, channels: int, filters: int, stride: int):
        super().__init__()
        inner = filters // 4
        self.project = None
        if stride > 1 or filters != channels:
            self.project = nn.Sequential(_conv(channels, filters, 1, stride), _norm(filters))
        self.conv1, self.norm1 = _conv(channels, inner, 1), _norm(inner)
        self.conv2, self.norm2 = _conv(inner, inner, 3, stride), _norm(inner)
        self.conv3, self.norm3 = _conv(inner, filters, 1), _norm(filters)

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] -> [N, filters, H / stride, W / stride]."""
        shortcut = x if self.project is None else self.project(x)
        x = self.norm1(self.conv1(x)).relu()
        x = self.norm2(self.conv2(x)).relu()
        return (shortcut + self.norm3(self.conv3(x))).relu()


class BottleneckV2(nn.Module):
    """As `BottleneckV1`, but each convolution's input is normalised and activated.

    A projected shortcut starts from that input too, and is not normalised.
    """

    def __init__(self, channels: int, filters: int, stride: int):
        super().__init__()
        inner = filters // 4
        projects = stride > 1 or filters != channels
        self.norm1 = _norm(channels)
        self.project = _conv(channels, filters, 1, stride) if projects else None
        self.conv1 = _conv(channels, inner, 1)
        self.norm2, self.conv2 = _norm(inner), _conv(inner, inner, 3, stride)
        self.norm3, self.conv3 = _norm(inner), _conv(inner, filters, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, channels, H, W] -> [N, filters, H / stride, W / stride]."""
        activated = self.norm1(x).relu()
        shortcut = x if self.project is None else self.project(activated)
        x = self.conv1(activated)
        x = self.conv2(self.norm2(x).relu())
        x = self.conv3(self.norm3(x).relu())
        return shortcut + x


def _conv(channels: int, filters: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, filters, size, stride, padding=size // 2, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation; PyTorch's momentum is the weight of the new value, not of the old."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
