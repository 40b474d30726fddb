"""Measures a training step: of fp32, an individual network, joint onions, convolutions alone.

    python -m benchmarks.train_step [--json=FILE] [--profile=DIR] [--rounds=N] [--batch-size=B]
        [--pytorch=eager,compiled] [--compiler-options=NAME=VALUE,...]

All systems take turns, round after round, so that noise of the machine falls on all of them alike.
Figures are medians over rounds; a ratio is the median of each round's ratio. The joint step is
compared with two lower bounds: its convolutions alone, and the time that the bytes it moves (XLA's
count) take at the bandwidth of a large copy. If PyTorch is installed (it is in no requirements
file), the same network family is timed there, in the same rounds; `over_pytorch_eager` tells how
many times as fast the joint step is.
"""

from collections.abc import Callable
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import platform
import statistics
import time
from typing import Any

from absl import flags
import chex
import jax
import jax.numpy as jnp
import numpy as np
import rich.table

from benchmarks import command
from dpoq_jax import config as config_lib
from dpoq_jax.core import convolution
from dpoq_jax.data import corrupt_records, in_memory
from dpoq_jax.network import costs, from_config, onion_network
from dpoq_jax.runtime import compiler
from dpoq_jax.training import steps_per_dispatch
from dpoq_jax.training.experiment import assemble

_JSON = flags.DEFINE_string('json', None, 'file for the figures')
_PROFILE = flags.DEFINE_string('profile', None, 'directory for a trace of one joint step')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'rounds that are measured, after one that is not')
_STEPS = flags.DEFINE_integer('steps', 3, 'timed steps of each system in a round')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 128, 'images per step')
_PYTORCH = flags.DEFINE_list('pytorch', ['eager', 'compiled'], 'counterparts; may be empty')
flags.register_validator(
  'pytorch', lambda kinds: set(kinds) <= {'eager', 'compiled'}, 'give eager, compiled or both.'
)
_DEPTH = flags.DEFINE_integer('depth', 20, 'depth of the CIFAR ResNet')
_OPTIONS = flags.DEFINE_list('compiler_options', [], 'options of XLA for every training step')

BITS = (2, 4, 8, 16)
CLASSES = 10
# Batches of an epoch, which is also the longest dispatch on a device that takes several at once.
BATCHES = 20


@dataclasses.dataclass
class System:
  """Describes a system that is timed, and holds its times.

  Attributes:
    run: function that takes some steps and returns when they are done.
    count: number of those steps.
    memory: bytes of XLA's arguments, results and temporaries at their peak; None without XLA.
    moved: bytes that XLA's program reads and writes.
    seconds: seconds per step, one entry for each round.
  """

  run: Callable[[], None]
  count: int = 1
  memory: int | None = None
  moved: float = 0.0
  seconds: list[float] = dataclasses.field(default_factory=list)

  def measure(self, steps: int) -> None:
    """Times one round, after a step that is not timed.

    XLA takes its temporaries from the operating system anew in each step. The first step after
    another system has run waits for pages that a training run finds in place.
    """
    self.run()
    started = time.perf_counter()
    for _ in range(steps):
      self.run()
    self.seconds.append((time.perf_counter() - started) / (steps * self.count))


def training(bits: tuple[int, ...], activation_bits: int) -> System:
  """Compiles the training step of `dpoq_jax.train`, augmentation included, dispatched as there."""
  config = config_lib.Config(
    log_every=BATCHES,
    data=config_lib.Data(batch_size=_BATCH_SIZE.value, pad=4, flip=True),
    model=config_lib.Model(depth=_DEPTH.value),
    quantization=config_lib.Quantization(bits=bits, activation_bits=activation_bits),
  )
  size = BATCHES * _BATCH_SIZE.value
  rng = np.random.default_rng(0)
  data = in_memory.ImageSet(
    rng.integers(0, 256, (size, 32, 32, 3), dtype=np.uint8),
    rng.integers(0, CLASSES, size, dtype=np.int32),
    tuple(map(str, range(CLASSES))),
  )
  experiment = assemble(config, data, data, data, corrupt_records.Tally(0))
  state = experiment.create_state()
  take_steps = steps_per_dispatch.compile_steps(experiment, state, options=options())
  batches = list(take_steps.batches(experiment.total_steps - BATCHES))
  endless = itertools.cycle(batch for _, batch in batches)
  analysis: Any = take_steps.program.cost_analysis()

  def run() -> None:
    nonlocal state
    state, losses = take_steps(state, next(endless))
    jax.block_until_ready((state, losses))

  memory = costs.peak_memory(take_steps.program)
  return System(run, batches[0][0], memory, analysis['bytes accessed'])


def options() -> dict[str, str]:
  """Returns the options of the compiler: those of the library, and those asked for."""
  given = dict(option.split('=', 1) for option in _OPTIONS.value)
  # XLA takes booleans as Python writes them; its own flags, and its documents, have `true`.
  return compiler.options() | {
    name: value.capitalize() if value in {'true', 'false'} else value
    for name, value in given.items()
  }


def convolutions(bits: tuple[int, ...]) -> System:
  """Compiles the convolutions of the joint step, each with its two gradients, and nothing else.

  The gradient towards the image is left out, as in training.
  """
  shapes = convolution_shapes()
  rng = np.random.default_rng(0)

  def floats(shape: tuple[int, ...]) -> jax.Array:
    return jnp.asarray(rng.standard_normal(shape, dtype=np.float32))

  operands = []
  for _ in bits:
    for x, kernel, strides in shapes:
      convolve = functools.partial(convolution.convolve, strides=strides, compute_dtype=jnp.float32)
      y = jax.eval_shape(convolve, jax.ShapeDtypeStruct(x, jnp.float32), floats(kernel))
      operands.append((floats(x), floats(kernel), floats(y.shape)))

  def step(operands: Any) -> Any:
    results = []
    for number, (x, kernel, cotangent) in enumerate(operands):
      strides = shapes[number % len(shapes)][2]
      convolve = functools.partial(convolution.convolve, strides=strides, compute_dtype=jnp.float32)
      is_stem = number % len(shapes) == 0
      if is_stem:
        y, transpose = jax.vjp(functools.partial(convolve, x), kernel)
      else:
        y, transpose = jax.vjp(convolve, x, kernel)
      results.append((y, transpose(cotangent)))
    return results

  jitted = jax.jit(chex.assert_max_traces(step, n=1), compiler_options=options())
  memory = costs.peak_memory(jitted.lower(operands).compile())
  return System(lambda: jax.block_until_ready(jitted(operands)) and None, memory=memory)


def convolution_shapes() -> list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, int]]]:
  """Returns (input, kernel, strides) of every convolution of one path, the stem first."""
  config = config_lib.Config(
    model=config_lib.Model(depth=_DEPTH.value),
    quantization=config_lib.Quantization(bits=(8,)),
  )
  network = from_config.build(config, CLASSES)
  assert isinstance(network, onion_network.Onion)
  cost = costs.path_cost(network, (32, 32, 3), batch_size=_BATCH_SIZE.value)
  return [(c.inputs, c.kernel, c.strides) for c in cost.convolutions]


def joint(count: int) -> str:
  """Returns the name of the joint onion of the lowest `count` precisions."""
  return f'joint {count}'


def bandwidth() -> float:
  """Measures the bytes per second, read and written, of a copy larger than any cache."""
  size = 2**28
  # Into its own memory: a fresh result would have each of its pages mapped while it is timed.
  add = jax.jit(lambda x: x + 1, donate_argnums=0)
  array = add(jnp.zeros(size // 4, jnp.float32)).block_until_ready()
  seconds = []
  for _ in range(7):
    started = time.perf_counter()
    array = add(array).block_until_ready()
    seconds.append(time.perf_counter() - started)
  return 2 * size / statistics.median(seconds)


def pytorch() -> dict[str, System]:
  """Returns the counterparts asked for; without PyTorch, prints a line and returns none."""
  try:
    from benchmarks import pytorch_counterpart
  except ModuleNotFoundError:
    print('PyTorch is not installed: its rows are left out (pip install torch).')
    return {}
  size, depth = _BATCH_SIZE.value, _DEPTH.value
  return {
    f'pytorch_{kind}': System(
      pytorch_counterpart.training_step(depth, BITS, CLASSES, size, compiled=kind == 'compiled')
    )
    for kind in _PYTORCH.value
  }


def report(systems: dict[str, System]) -> dict[str, Any]:
  """Returns the figures, as written by `--json`."""
  speed = bandwidth()
  joint_step = systems['joint']
  seconds = {name: np.array(system.seconds) for name, system in systems.items()}
  ratio = seconds['joint'] / (len(BITS) * seconds['fp32'])
  return {
    'joint_over_k_fp32': statistics.median(ratio),
    # The width of a kernel is not in the time of an individual network: all compute in float32.
    'joint_over_individuals': statistics.median(
      seconds['joint'] / (len(BITS) * seconds['individual'])
    ),
    'over_convolutions': statistics.median(seconds['joint'] / seconds['convolutions']),
    **{
      f'over_{name}': statistics.median(seconds[name] / seconds['joint'])
      for name in systems
      if name.startswith('pytorch')
    },
    'over_bytes_moved': statistics.median(joint_step.seconds) * speed / joint_step.moved,
    'bytes_moved': joint_step.moved,
    'bandwidth': speed,
    'systems': {
      name: {
        'seconds_per_step': statistics.median(system.seconds),
        'images_per_second': _BATCH_SIZE.value / statistics.median(system.seconds),
        'peak_bytes': system.memory,
      }
      for name, system in systems.items()
    },
    'model': f'resnet{_DEPTH.value}',
    'bits': BITS,
    'batch_size': _BATCH_SIZE.value,
    'rounds': _ROUNDS.value,
    'compiler_options': _OPTIONS.value,
    'device': jax.devices()[0].device_kind,
    'processor': platform.machine(),
    # Decides on huge pages, which are worth a tenth of a step on CPU.
    'glibc_tunables': os.environ.get('GLIBC_TUNABLES', ''),
    'jax': jax.__version__,
  }


def main(_: list[str]) -> None:
  """Measures, prints the table, writes the figures."""
  systems = {
    'fp32': training((32,), 32),
    'individual': training((8,), 8),
    **{joint(count): training(BITS[:count], 8) for count in range(2, len(BITS))},
    'joint': training(BITS, 8),
    'convolutions': convolutions(BITS),
    **pytorch(),
  }
  for round_number in range(_ROUNDS.value + 1):
    for system in systems.values():
      system.measure(_STEPS.value)
      if round_number == 0:
        system.seconds.clear()
  figures = report(systems)
  table = rich.table.Table(title=f'ResNet-{_DEPTH.value}, batch {_BATCH_SIZE.value}')
  for column in ('', 'ms / step', 'images/s', 'peak MB'):
    table.add_column(column, justify='right')
  for name, measured in figures['systems'].items():
    milliseconds, speed = 1000 * measured['seconds_per_step'], measured['images_per_second']
    peak = measured['peak_bytes']
    megabytes = '' if peak is None else f'{peak / 1e6:.0f}'
    table.add_row(name, f'{milliseconds:.0f}', f'{speed:.1f}', megabytes)
  console = command.console()
  console.print(table)
  console.print(f'joint / ({len(BITS)} x fp32): {figures["joint_over_k_fp32"]:.3f}')
  console.print(
    f'joint / ({len(BITS)} individual networks): {figures["joint_over_individuals"]:.3f}'
  )
  console.print(f'joint / convolutions alone: {figures["over_convolutions"]:.3f}')
  console.print(
    f'joint / its {figures["bytes_moved"] / 1e9:.1f} GB at {figures["bandwidth"] / 1e9:.1f} GB/s: '
    f'{figures["over_bytes_moved"]:.3f}'
  )
  for kind in _PYTORCH.value:
    if (ratio := figures.get(f'over_pytorch_{kind}')) is not None:
      console.print(f'PyTorch, {kind} / joint: {ratio:.3f}')
  if _PROFILE.value:
    with jax.profiler.trace(_PROFILE.value):
      systems['joint'].run()
  if _JSON.value:
    pathlib.Path(_JSON.value).write_text(json.dumps(figures, indent=2) + '\n')


if __name__ == '__main__':
  command.start(main)
