"""Record the layers that see, on the CPU: `vision.safetensors`.

    pip install torch==2.11.0 torchvision==0.26.0 && python record_vision.py

Batch normalization with running statistics, `torchvision.transforms.Resize`, LeRobot's spatial softmax (written out
here as its `SpatialSoftmax.forward` has it) and the two residual blocks of torchvision's ResNets, each with batch
normalization and with the group normalization that LeRobot puts in its place. Weights are random, those of the
normalizations too.
"""

import os

import numpy
import torch
import torchvision
from safetensors.torch import save_file
from torchvision.models.resnet import BasicBlock, Bottleneck

torch.manual_seed(20260)
out = {}


def shaken(module):
    for part in module.modules():
        if isinstance(part, (torch.nn.BatchNorm2d, torch.nn.GroupNorm)):
            torch.nn.init.normal_(part.weight, 1.0, 0.3)
            torch.nn.init.normal_(part.bias, 0.0, 0.3)
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(part.running_mean, 0.0, 0.3)
            torch.nn.init.uniform_(part.running_var, 0.5, 1.5)
    return module.eval()


def record(name, module, x):
    for key, value in module.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            out[f"{name}.{key}"] = value
    out[f"{name}.x"] = x
    out[f"{name}.y"] = module(x)


def grouped(block):
    """As LeRobot's `_replace_submodules` with its predicate for batch normalization."""
    for name, part in list(block.named_modules()):
        if isinstance(part, torch.nn.BatchNorm2d):
            parent = block.get_submodule(name.rpartition(".")[0])
            norm = torch.nn.GroupNorm(part.num_features // 16, part.num_features)
            setattr(parent, name.rpartition(".")[2], norm)
    return block


def downsample(channels_in, channels_out, stride):
    conv = torch.nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
    return torch.nn.Sequential(conv, torch.nn.BatchNorm2d(channels_out))


class SpatialSoftmax(torch.nn.Module):
    def __init__(self, channels, height, width, keypoints):
        super().__init__()
        self.nets = torch.nn.Conv2d(channels, keypoints, 1)
        x, y = numpy.meshgrid(numpy.linspace(-1.0, 1.0, width), numpy.linspace(-1.0, 1.0, height))
        grid = [torch.from_numpy(p.reshape(height * width, 1)).float() for p in (x, y)]
        self.register_buffer("pos_grid", torch.cat(grid, dim=1))

    def forward(self, x):
        maps = self.nets(x)
        attention = torch.softmax(maps.reshape(-1, maps.shape[2] * maps.shape[3]), dim=-1)
        return (attention @ self.pos_grid).view(-1, maps.shape[1], 2)


with torch.no_grad():
    record("batch_norm", shaken(torch.nn.BatchNorm2d(4)), torch.randn(3, 4, 2, 5))
    record("spatial_softmax", SpatialSoftmax(6, 3, 5, 4), 4 * torch.randn(2, 6, 3, 5))
    record("basic.batch", shaken(BasicBlock(4, 8, 2, downsample(4, 8, 2))), torch.randn(2, 4, 7, 6))
    record("basic.plain", shaken(BasicBlock(4, 4)), torch.randn(2, 4, 5, 6))
    record("basic.group", shaken(grouped(BasicBlock(4, 32, 2, downsample(4, 32, 2)))), torch.randn(2, 4, 7, 6))
    record("bottleneck.batch", shaken(Bottleneck(6, 4, 2, downsample(6, 16, 2))), torch.randn(2, 6, 7, 6))
    x = torch.rand(2, 3, 20, 26)
    out["resize.x"] = x
    for size in [(7, 9), (31, 40), (30, 11), (10, 13), (20, 26), (1, 1)]:
        out[f"resize.{size[0]}x{size[1]}"] = torchvision.transforms.Resize(size)(x)

path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "vision.safetensors")
save_file({key: value.clone().contiguous() for key, value in out.items()}, path)
