"""Defines the same network family in plain PyTorch, as one would write it there, for timing.

Any-Precision training (Yu et al., arXiv:1911.07346): one set of float weights, quantized anew for
each precision, switchable batch norm and clips, and in every step a forward and a backward pass per
precision, whose gradients add up. Quantizers, network, augmentation and optimizer are those of the
onion's step.
"""

# PyTorch is in no requirements file, since it is gigabytes for one benchmark.
# pyright: reportMissingImports=false

from collections.abc import Callable, Sequence

import torch
from torch import nn
import torch.nn.functional as F  # noqa: N812 (its usual name)

ACTIVATION_BITS = 8


def _rounded(x: torch.Tensor) -> torch.Tensor:
  """Rounds, with the gradient of the identity."""
  return x + (x.round() - x).detach()


class QuantizedConv(nn.Conv2d):
  """Convolves with DoReFa weights of as many bits as asked for; float ones at 32."""

  def at(self, x: torch.Tensor, bits: int) -> torch.Tensor:
    """Returns the convolution of `x` with weights of `bits` bits."""
    weight = self.weight
    if bits < 32:
      squashed = torch.tanh(weight)
      top = 2**bits - 1
      unit = squashed / (2 * squashed.abs().max().detach()) + 0.5
      weight = 2 * _rounded(unit * top) / top - 1
    return F.conv2d(x, weight, None, self.stride, self.padding)


class ConvNorm(nn.Module):
  """Runs a convolution, then the batch norm of the precision."""

  def __init__(self, channels: int, features: int, stride: int, bits: Sequence[int]) -> None:
    super().__init__()
    self.conv = QuantizedConv(channels, features, 3, stride, 1, bias=False)
    self.norms = nn.ModuleDict({str(b): nn.BatchNorm2d(features) for b in bits})

  def forward(self, x: torch.Tensor, bits: int) -> torch.Tensor:
    """Returns [batch, features, height', width'] for [batch, channels, height, width]."""
    return self.norms[str(bits)](self.conv.at(x, bits))


class PACT(nn.Module):
  """Quantizes activations by PACT, with a clip for each precision."""

  def __init__(self, bits: Sequence[int]) -> None:
    super().__init__()
    self.clips = nn.ParameterDict({str(b): nn.Parameter(torch.tensor(6.0)) for b in bits})

  def forward(self, x: torch.Tensor, bits: int) -> torch.Tensor:
    """Returns the pre-activations, clipped and rounded to the levels of 8 bits."""
    if bits == 32:
      return F.relu(x)
    clip, top = self.clips[str(bits)], 2**ACTIVATION_BITS - 1
    step = clip.detach() / top
    return _rounded(torch.minimum(F.relu(x), clip) / step) * step


class Block(nn.Module):
  """Runs two convolutions and a shortcut, which subsamples and pads channels with zeros."""

  def __init__(self, channels: int, features: int, stride: int, bits: Sequence[int]) -> None:
    super().__init__()
    self.conv1 = ConvNorm(channels, features, stride, bits)
    self.pact1 = PACT(bits)
    self.conv2 = ConvNorm(features, features, 1, bits)
    self.pact2 = PACT(bits)
    self.stride, self.added = stride, features - channels

  def forward(self, x: torch.Tensor, bits: int) -> torch.Tensor:
    """Returns [batch, features, height', width'] for [batch, channels, height, width]."""
    y = self.conv2(self.pact1(self.conv1(x, bits), bits), bits)
    if self.stride > 1:
      before = self.added // 2
      x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.added - before))
    return self.pact2(y + x, bits)


class CifarResNet(nn.Module):
  """Runs the CIFAR ResNet of `depth` layers."""

  def __init__(self, depth: int, bits: Sequence[int], classes: int) -> None:
    super().__init__()
    self.stem, self.pact = ConvNorm(3, 16, 1, bits), PACT(bits)
    blocks, channels = [], 16
    for stage, features in enumerate((16, 32, 64)):
      for number in range((depth - 2) // 6):
        stride = 2 if stage and not number else 1
        blocks.append(Block(channels, features, stride, bits))
        channels = features
    self.blocks = nn.ModuleList(blocks)
    self.heads = nn.ModuleDict({str(b): nn.Linear(channels, classes) for b in bits})

  def forward(self, x: torch.Tensor, bits: int) -> torch.Tensor:
    """Returns the logits, [batch, classes], of images, [batch, 3, height, width]."""
    x = self.pact(self.stem(x, bits), bits)
    for block in self.blocks:
      x = block(x, bits)
    return self.heads[str(bits)](x.mean(dim=(2, 3)))


def augmented(images: torch.Tensor, pad: int) -> torch.Tensor:
  """Crops padded images and flips them at random, each image for itself."""
  count, _, height, width = images.shape
  padded = F.pad(images, (pad,) * 4)
  top, left = torch.randint(0, 2 * pad + 1, (2, count, 1), device=images.device)
  rows = top + torch.arange(height, device=images.device)
  columns = left + torch.arange(width, device=images.device)
  flips = torch.rand(count, 1, device=images.device) < 0.5
  columns = torch.where(flips, columns.flip(1), columns)
  each = torch.arange(count, device=images.device)[:, None, None]
  return padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def training_step(
  depth: int, bits: Sequence[int], classes: int, batch_size: int, *, compiled: bool
) -> Callable[[], None]:
  """Returns a training step on random images, on a GPU if PyTorch sees one.

  Args:
    depth: depth of the CIFAR ResNet.
    bits: bits of each precision; 32 is the float network.
    classes: number of classes.
    batch_size: images per step.
    compiled: whether the network is compiled by `torch.compile`.
  """
  device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
  torch.manual_seed(0)
  model = CifarResNet(depth, bits, classes).to(device).train()
  optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
  images = torch.randint(0, 256, (batch_size, 3, 32, 32), dtype=torch.uint8, device=device)
  labels = torch.randint(0, classes, (batch_size,), device=device)
  # High, since the code of a class is compiled for each precision and each of its modules.
  torch._dynamo.config.recompile_limit = 128
  forward = torch.compile(model) if compiled else model

  def run() -> None:
    optimizer.zero_grad(set_to_none=True)
    pixels = (augmented(images.float() - 128, 4)) / 128
    for precision in bits:
      F.cross_entropy(forward(pixels, precision), labels).backward()
    optimizer.step()
    if device.type == 'cuda':
      torch.cuda.synchronize()

  return run
