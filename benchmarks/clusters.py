"""Describes devices and the links between them, by numbers that others have published.

The sources of all numbers are in docs/scaling.md.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Cluster:
  """Describes devices that share a batch evenly, and the links between them.

  Attributes:
    name: name in the tables.
    devices: number of devices.
    batch_sizes: images per device that estimates are made for.
    peak: FLOP/s of a device in bfloat16.
    memory: bytes/s of a device's memory.
    measured_images: images/s of a device in a published training of ResNet-50.
    measured_on: device that this was measured on.
    measured_memory: bytes/s of that device's memory.
    bandwidth: bytes/s that each device sends in a ring over all devices.
    latency: seconds of an all-reduce of a few bytes.
  """

  name: str
  devices: int
  batch_sizes: tuple[int, ...]
  peak: float
  memory: float
  measured_images: float
  measured_on: str
  measured_memory: float
  bandwidth: float
  latency: float

  def flops_per_second(self, image_flops: float) -> float:
    """Returns the FLOP/s that a device achieves: as published, scaled by the speed of memory.

    Memory limits batch norm and activations, which is why such a training reaches a tenth of the
    peak.

    Args:
      image_flops: FLOPs of an image in the network whose training was published.
    """
    return self.measured_images * image_flops * self.memory / self.measured_memory

  def sent(self, size: int) -> float:
    """Returns the bytes that each device sends in a ring all-reduce of `size` bytes."""
    return 2 * (self.devices - 1) / self.devices * size

  def seconds(self, size: int, messages: int = 1) -> float:
    """Returns the seconds of all-reduces one after the other, of `size` bytes in all."""
    return messages * self.latency + self.sent(size) / self.bandwidth


def tree_latency(devices: int, nodes: int) -> float:
  """Returns the seconds of a small all-reduce on GPUs, by NCCL's own model of its algorithms.

  The algorithm is the tree with protocol LL. In microseconds it takes 6.8, and 0.6 for each step
  over NVLink (1.8 times that if there are several nodes), and 5.0 for each over the network.
  """
  within = 0.6 if nodes == 1 else 1.8 * 0.6
  steps_between = (nodes - 1).bit_length()
  return 1e-6 * (6.8 + 2 * ((devices // nodes - 1) * within + 5.0 * steps_between))


_H100 = {
  'peak': 989e12,
  'memory': 3.35e12,
  'measured_images': 2470.0,
  'measured_on': 'A100 80GB',
  'measured_memory': 2.039e12,
}
_NVLINK = 370e9

CLUSTERS = (
  Cluster(
    name='8 GPUs',
    devices=8,
    batch_sizes=(32, 128),
    bandwidth=_NVLINK,
    latency=tree_latency(8, 1),
    **_H100,
  ),
  Cluster(
    name='64 GPUs, 8 x 400 Gb/s a node',
    devices=64,
    batch_sizes=(4, 32, 128),
    # There are 8 rings, each of which leaves a node by a network card of its own.
    bandwidth=min(_NVLINK, 0.8 * 8 * 50e9),
    latency=tree_latency(64, 8),
    **_H100,
  ),
  Cluster(
    name='64 GPUs, 100 Gb/s a node',
    devices=64,
    batch_sizes=(4, 32, 128),
    bandwidth=0.8 * 12.5e9,
    latency=tree_latency(64, 8),
    **_H100,
  ),
  Cluster(
    name='TPU v5e-64',
    devices=64,
    batch_sizes=(4, 32),
    peak=197e12,
    memory=819e9,
    measured_images=1.05e6 / 1024,
    measured_on='TPU v3',
    measured_memory=900e9,
    # A ring through a mesh of 8 x 8 devices, which sends both ways round.
    bandwidth=2 * 45e9,
    # There and back along both axes, at 1 us for each hop.
    latency=1e-6 * 2 * (7 + 7),
  ),
)
