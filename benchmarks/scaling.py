"""Estimates training on many devices: arithmetic, bytes communicated, expected efficiency.

    python -m benchmarks.scaling [--json=FILE]

Prints, as Markdown, the tables of docs/scaling.md, where the assumptions are explained. Arithmetic
and bytes follow from the network alone, and are tested against the compiled training step. Times
follow from published speeds of devices and links: nothing is measured, and no accelerator needed.
"""

from collections.abc import Sequence
import dataclasses
import functools
import json
import pathlib
from typing import Any

from absl import flags, logging
import jax
import jax.numpy as jnp

from benchmarks import clusters, command
from dpoq_jax import config as config_lib
from dpoq_jax.configs import imagenet_resnet18
from dpoq_jax.network import costs, from_config, onion_network
from dpoq_jax.training import optimizer
from dpoq_jax.training.train_step import create_state

# Overridden, since a test imports this module beside another that defines the same flag.
_JSON = flags.DEFINE_string('json', None, 'file for the figures', allow_override=True)

BITS = (2, 4, 6, 8)
CLASSES = 1000
IMAGE_SHAPE = (224, 224, 3)
FLOAT = 4
"""Bytes of a parameter, a statistic and their gradients."""
BACKWARD = 2 / 3
"""The part of a step's time in which gradients become known."""


@dataclasses.dataclass(frozen=True)
class Step:
  """Describes a training step by its sizes.

  Attributes:
    flops: FLOPs of one image, forward and backward, in convolutions and classifiers of all paths.
    parameters: number of parameters, each of which has a gradient.
    statistics: number of means and variances of all paths.
    normalisations: number of layers of all paths that compute them.
    paths: number of paths.
  """

  flops: int
  parameters: int
  statistics: int
  normalisations: int
  paths: int

  @property
  def gradient_bytes(self) -> int:
    """Returns the bytes that are always all-reduced: gradients, and metrics of each path."""
    return FLOAT * (self.parameters + 2 * self.paths)

  @property
  def statistics_bytes(self) -> int:
    """Returns the bytes that are all-reduced for statistics of the whole batch.

    These are means, variances and, with the latter, what rounding took from the means. Their
    gradients need no further sums than those of the gradients of gamma and beta, which are sent in
    any case.
    """
    return 3 * self.average_bytes // 2

  @property
  def average_bytes(self) -> int:
    """Returns the bytes of the running averages."""
    return FLOAT * self.statistics

  @property
  def statistics_messages(self) -> int:
    """Returns the number of all-reduces that this takes, each of which is waited for."""
    return 4 * self.normalisations

  @property
  def joined_messages(self) -> int:
    """Returns that number if XLA joins the all-reduces of all paths at one layer."""
    return self.statistics_messages // self.paths


def step_of(network: onion_network.Onion, image_shape: Sequence[int]) -> Step:
  """Returns the step that trains a network, from its shapes alone."""
  cost = costs.path_cost(network, image_shape)
  # The gradient towards the image is not computed.
  stem = cost.convolutions[0].multiply_accumulates
  transform = optimizer.sgd(config_lib.Optimizer(), 0.1)
  images = jax.ShapeDtypeStruct((1, *image_shape), jnp.uint8)
  create = functools.partial(create_state, network, transform)
  state = jax.eval_shape(create, jax.random.key(0), images)
  statistics = jax.tree.leaves(state.collections)
  return Step(
    flops=2 * (3 * cost.multiply_accumulates - stem) * len(network.bits),
    parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
    statistics=sum(leaf.size for leaf in statistics),
    normalisations=len(statistics) // 2,
    paths=len(network.bits),
  )


def imagenet_step(depth: int, variant: str) -> Step:
  """Returns the step of a variant of `imagenet_resnet18` with `depth` layers."""
  config = imagenet_resnet18.get_config(variant)
  config.model.depth = depth
  network = from_config.build(config_lib.validate(config), CLASSES)
  assert isinstance(network, onion_network.Onion)
  return step_of(network, IMAGE_SHAPE)


@dataclasses.dataclass(frozen=True)
class Estimate:
  """Holds the estimated times of a step on a cluster.

  Attributes:
    cluster: cluster that it runs on.
    batch_size: images per device.
    arithmetic: seconds that one device computes.
    gradients: seconds of the all-reduce of gradients.
    statistics: seconds of the all-reduces of the whole batch's statistics, one after the other.
    joined_statistics: the same seconds if those of all paths at one layer are one message.
  """

  cluster: clusters.Cluster
  batch_size: int
  arithmetic: float
  gradients: float
  statistics: float
  joined_statistics: float

  def efficiency(self, *, global_statistics: bool, best: bool) -> float:
    """Returns the time of a device alone, with its part of the batch, over that of all together.

    Args:
      global_statistics: whether statistics are those of the whole batch. They are always waited
        for, since the next layer needs them.
      best: whether gradients are all-reduced during the backward pass and messages of statistics
        are joined.
    """
    waiting = self.gradients
    if best:
      waiting = max(waiting - BACKWARD * self.arithmetic, 0.0)
    if global_statistics:
      waiting += self.joined_statistics if best else self.statistics
    return self.arithmetic / (self.arithmetic + waiting)

  def images_per_second(self, *, global_statistics: bool, best: bool) -> float:
    """Returns the images/s of all devices together; see `efficiency`."""
    alone = self.cluster.devices * self.batch_size / self.arithmetic
    return alone * self.efficiency(global_statistics=global_statistics, best=best)


def estimate(
  step: Step, resnet50: Step, cluster: clusters.Cluster, batch_size: int, speed: float = 1.0
) -> Estimate:
  """Estimates the times of a step.

  Args:
    step: step of the network.
    resnet50: step of the network whose speed was published.
    cluster: cluster that it runs on.
    batch_size: images per device.
    speed: factor on the FLOP/s that devices achieve.
  """
  rate = speed * cluster.flops_per_second(resnet50.flops)
  return Estimate(
    cluster=cluster,
    batch_size=batch_size,
    arithmetic=batch_size * step.flops / rate,
    gradients=cluster.seconds(step.gradient_bytes),
    statistics=cluster.seconds(step.statistics_bytes, step.statistics_messages),
    joined_statistics=cluster.seconds(step.statistics_bytes, step.joined_messages),
  )


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
  """Writes a table as Markdown."""
  cells = [header, ['---'] * len(header), *lines]
  return '\n'.join(f'| {" | ".join(line)} |' for line in cells)


def tables(step: Step, resnet50: Step) -> dict[str, str]:
  """Returns the tables of docs/scaling.md, by name."""
  cases = [(cluster, size) for cluster in clusters.CLUSTERS for size in cluster.batch_sizes]
  estimates = [estimate(step, resnet50, *case) for case in cases]
  return {
    'step': markdown(
      ('of a step', ''),
      (
        ('paths', f'{step.paths}'),
        ('arithmetic, an image', f'{step.flops / 1e9:.1f} GFLOP'),
        ('parameters', f'{step.parameters / 1e6:.2f} M'),
        ('all-reduced: gradients', f'{step.gradient_bytes / 1e6:.1f} MB'),
        (
          'and, for statistics of the whole batch',
          f'{step.statistics_bytes / 1e3:.0f} kB in {step.statistics_messages} messages,'
          f' {step.joined_messages} if joined',
        ),
        (
          'and, for statistics per device, at most the running averages',
          f'{step.average_bytes / 1e3:.0f} kB',
        ),
      ),
    ),
    'clusters': markdown(
      ('', 'peak, TFLOP/s', 'achieved', 'ring, GB/s', 'small all-reduce, us'),
      [_cluster_row(cluster, resnet50) for cluster in clusters.CLUSTERS],
    ),
    'times': markdown(
      (
        *('', 'images a device', 'batch', 'TFLOP a device', 'ms', 'gradients: MB sent', 'ms'),
        *('statistics of the whole batch: kB sent', 'ms'),
      ),
      [_times_row(step, each) for each in estimates],
    ),
    'efficiency': markdown(
      (
        *('', 'images a device', 'statistics per device', 'images/s'),
        *('statistics of the whole batch', 'images/s'),
      ),
      [_efficiency_row(each) for each in estimates],
    ),
    'faster': markdown(
      (
        *('efficiency at least', 'images a device'),
        *(f'per device, {speed} x as fast' for speed in _SPEEDS),
        *(f'whole batch, {speed} x' for speed in _SPEEDS),
      ),
      [(c.name, f'{size}', *_faster_row(step, resnet50, c, size)) for c, size in cases],
    ),
  }


_SPEEDS = (2, 4)


def _cluster_row(cluster: clusters.Cluster, resnet50: Step) -> list[str]:
  rate = cluster.flops_per_second(resnet50.flops)
  return [
    cluster.name,
    f'{cluster.peak / 1e12:.0f}',
    f'{rate / 1e12:.0f} ({100 * rate / cluster.peak:.0f} %)',
    f'{cluster.bandwidth / 1e9:.0f}',
    f'{1e6 * cluster.latency:.0f}',
  ]


def _times_row(step: Step, each: Estimate) -> list[str]:
  cluster, size = each.cluster, each.batch_size
  return [
    cluster.name,
    f'{size}',
    f'{size * cluster.devices:,}',
    f'{size * step.flops / 1e12:.2f}',
    f'{1e3 * each.arithmetic:.1f}',
    f'{cluster.sent(step.gradient_bytes) / 1e6:.0f}',
    f'{1e3 * each.gradients:.1f}',
    f'{cluster.sent(step.statistics_bytes) / 1e3:.0f}',
    f'{1e3 * each.joined_statistics:.1f} to {1e3 * each.statistics:.1f}',
  ]


def _efficiency_row(each: Estimate) -> list[str]:
  row = [each.cluster.name, f'{each.batch_size}']
  for whole in (False, True):
    low, high = (each.efficiency(global_statistics=whole, best=best) for best in (False, True))
    slow, fast = (
      each.images_per_second(global_statistics=whole, best=best) for best in (False, True)
    )
    row += [f'{100 * low:.0f} to {100 * high:.0f} %', f'{_rounded(slow)} to {_rounded(fast)}']
  return row


def _rounded(number: float) -> str:
  """Writes a number with two digits, as becomes an estimate."""
  return f'{float(f"{number:.1e}"):,.0f}'


def _faster_row(step: Step, resnet50: Step, cluster: clusters.Cluster, size: int) -> list[str]:
  estimates = [estimate(step, resnet50, cluster, size, speed) for speed in _SPEEDS]
  return [
    f'{100 * each.efficiency(global_statistics=whole, best=False):.0f} %'
    for whole in (False, True)
    for each in estimates
  ]


def figures(step: Step, resnet50: Step) -> dict[str, Any]:
  """Returns the content of the tables, as written by `--json`."""
  return {
    'step': {
      **dataclasses.asdict(step),
      'gradient_bytes': step.gradient_bytes,
      'statistics_bytes': step.statistics_bytes,
      'statistics_messages': step.statistics_messages,
    },
    'estimates': [
      {
        **dataclasses.asdict(estimate(step, resnet50, cluster, size)),
        'flops_per_second': cluster.flops_per_second(resnet50.flops),
      }
      for cluster in clusters.CLUSTERS
      for size in cluster.batch_sizes
    ],
  }


def steps() -> tuple[Step, Step]:
  """Returns the steps of ResNet-18, and of the float ResNet-50 whose speed was published."""
  return (
    imagenet_step(18, f'bits={"-".join(map(str, BITS))}'),
    imagenet_step(50, 'bits=32,activations=32'),
  )


def main(_: list[str]) -> None:
  """Estimates, prints the tables, writes the figures."""
  # JAX logs every kind of accelerator that it does not find.
  logging.set_verbosity(logging.ERROR)
  step, resnet50 = steps()
  print('\n\n'.join(tables(step, resnet50).values()))
  if _JSON.value:
    text = json.dumps(figures(step, resnet50), indent=2)
    pathlib.Path(_JSON.value).write_text(text + '\n')


if __name__ == '__main__':
  command.start(main)
