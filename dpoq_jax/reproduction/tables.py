"""Defines the tables of the paper (section 4): its numbers, and the runs that measure ours.

A table is a list of cells, each with the paper's number. At scale `paper`, runs have the paper's
networks, data and schedule; at `cpu` and `smoke`, a small network on other data stands in for each,
so that differences between systems can be compared with the paper's, but accuracies cannot. Tables
of ours are in `ablation`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses

from dpoq_jax.reproduction import ablation
from dpoq_jax.reproduction.cells import (
  FLOAT,
  SCALES,
  Cell,
  Scale,
  bits_variant,
  individual_variant,
  top1,
)
from dpoq_jax.reproduction.runs import Run

# What is made at scale `long`, too.
_LONG = ('recipe', 'figure5')


def cells(table: str, scale: Scale) -> list[Cell]:
  """Returns all cells of a table at a scale, in the order of its rows.

  Raises:
    ValueError: if there is no such table, or not at this scale.
  """
  if table not in TABLES:
    raise ValueError(f'{table}: there are {", ".join(TABLES)}.')
  check_scale(table, scale)
  return list(TABLES[table](scale))


def check_scale(name: str, scale: Scale) -> None:
  """Checks that a table or figure is made at a scale.

  Raises:
    ValueError: if it is not.
  """
  scales = [each for each in SCALES if each != 'long' or name in _LONG]
  if scale.name not in scales:
    raise ValueError(f'{name} is not made at scale {scale.name}: give {", ".join(scales)}.')


@dataclasses.dataclass(frozen=True)
class _Part:
  """Describes one comparison of a table, by what all its runs share.

  Attributes:
    table: name of the table.
    name: network, data and activations, as the table has them.
    config: name of the config file.
    variant: variant of it, but for the activations.
    scale: scale of the runs.
    activations: bits of the activations of all systems, the float network among them; None leaves
      them to the rows.
  """

  table: str
  name: str
  config: str
  variant: str
  scale: Scale
  activations: int | None = None

  def row(
    self,
    system: str,
    bits: Sequence[int],
    paper: Mapping[int, float],
    variant: str,
    read: Callable[[int], tuple[str, ...]],
    *,
    favoured: bool = False,
  ) -> Iterator[Cell]:
    """Yields the cells of one row; a favoured one has as many seeds as the paper's system."""
    seeds = self.scale.seeds if favoured else self.scale.other_seeds
    activations = '' if self.activations is None else f'activations={self.activations}'
    for seed in range(seeds):
      run = Run(self.config, ','.join(filter(None, [variant, self.variant, activations])), seed)
      for b in bits:
        yield Cell(self.table, self.name, system, b, run, read(b), paper.get(b))

  def individual(self, bits: Sequence[int], paper: Mapping[int, float]) -> Iterator[Cell]:
    """Yields the cells of individual networks, one for each precision.

    The float one has the activations of the comparison, if it sets them, and else float ones.
    """
    quantized = [b for b in bits if b != FLOAT]
    for b in bits:
      variant = individual_variant(b, quantized, float_activations=self.activations is None)
      yield from self.row('individual', [b], paper, variant, top1, favoured=True)

  def truncated(self, bits: Sequence[int]) -> Iterator[Cell]:
    """Yields the cells of the highest individual network truncated, with old and new statistics."""
    variant = individual_variant(bits[-1], bits)
    for system, name in (
      ('truncated after training', 'top1'),
      ('truncated, statistics renewed', 'top1_reestimated'),
    ):

      def read(b: int, name: str = name) -> tuple[str, ...]:
        return top1(b) if b == bits[-1] else ('truncated', str(b), name)

      yield from self.row(system, bits, {}, variant, read, favoured=True)


def _table1(scale: Scale) -> Iterator[Cell]:
  """Yields Table 1: gradient modes and merges, for ResNet-20 on CIFAR-100."""
  config, variant, bits, name = {
    'smoke': ('digits_resnet8', 'smoke', (2, 4), 'ResNet-8, digits'),
    'cpu': ('cifar10_resnet8_cpu', '', (2, 4, 8), 'ResNet-8, CIFAR-10, 4 epochs'),
    'paper': ('cifar100_resnet20', '', (2, 4, 8, 16), 'ResNet-20, CIFAR-100'),
  }[scale.name]
  part = _Part('table1', f'{name}, activations of 8 bits', config, variant, scale)
  columns = (2, 4, 8, 16)
  yield from part.individual(
    # The paper compares the 16-bit onion with a float network.
    [*(b for b in bits if b != 16), FLOAT],
    dict(zip((2, 4, 8, FLOAT), (65.42, 68.18, 68.61, 68.74), strict=True)),
  )
  for mode, label, vanilla, shifted in (
    ('joint', 'joint', (62.96, 68.82, 69.13, 69.21), (62.63, 67.60, 70.30, 71.05)),
    ('separate', 'separate', (65.30, 67.04, 67.55, 67.49), (65.30, 67.36, 68.68, 69.41)),
    ('scaled', 'scaled gradients', (64.99, 68.20, 68.30, 68.37), (65.26, 69.00, 70.32, 70.60)),
  ):
    for merge, suffix, paper in (('vanilla', '', vanilla), ('psbn', ' + PSBN', shifted)):
      yield from part.row(
        label + suffix,
        bits,
        dict(zip(columns, paper, strict=True)),
        f'system={mode},merge={merge},{bits_variant(bits)}',
        top1,
        favoured=(mode, merge) == ('scaled', 'psbn'),
      )
  yield from _shared(part, bits, '', {})
  yield from part.truncated([b for b in bits if b != 16])


def _table2(scale: Scale) -> Iterator[Cell]:
  """Yields Table 2: individual networks, the onion and its ensembles, for several networks."""
  for network in _TABLE_2:
    for data, numbers in network.numbers.items():
      if scale.name != 'paper' and data != 'cifar10':
        continue
      config, variant, name, bits = {
        'smoke': (
          'digits_resnet8',
          f'model={network.model},smoke',
          f'{network.small}, digits',
          network.bits[:2],
        ),
        'cpu': (
          'cifar10_resnet8_cpu',
          f'model={network.model},width={network.width}',
          f'{network.small}, CIFAR-10, 4 epochs',
          tuple(b for b in network.bits if b < 16),
        ),
        'paper': (
          f'{data}_{network.config}',
          '',
          f'{network.name}, CIFAR-{data.removeprefix("cifar")}',
          network.bits,
        ),
      }[scale.name]
      name += f', activations of {network.activations} bits'
      # Of the float network, too: the paper's ResNet-20 has 63.51 % in this table, and 68.74 in
      # Table 1, whose activations have 8 bits.
      part = _Part('table2', name, config, variant, scale, network.activations)
      individual, dpoq, ensemble = (dict(zip(network.bits, row, strict=True)) for row in numbers)
      # The paper compares the 16-bit onion with a float network.
      alone = {FLOAT if b == 16 else b: number for b, number in individual.items()}
      yield from part.individual([b for b in alone if b in bits or b == FLOAT], alone)
      onion = f'system=scaled,merge=psbn,{bits_variant(bits)}'
      yield from part.row('DPOQ', bits, dpoq, onion, top1, favoured=True)
      yield from part.row('DPOQ, ensemble', bits, ensemble, onion, _ensemble, favoured=True)


def _table3(scale: Scale) -> Iterator[Cell]:
  """Yields Table 3: onions of several bit lists against AdaBits, for ResNet-18 on ImageNet."""
  config, variant, name = {
    'smoke': ('digits_resnet8', 'smoke', 'ResNet-8, digits'),
    'cpu': ('cifar10_resnet8_cpu', '', 'ResNet-8, CIFAR-10, 4 epochs'),
    'paper': ('imagenet_resnet18', '', 'ResNet-18, ImageNet'),
  }[scale.name]
  part = _Part('table3', name, config, variant, dataclasses.replace(scale, seeds=1, other_seeds=1))
  individual = {2: 64.5, 4: 68.7, 5: 68.9, 6: 69.11, 8: 69.6, FLOAT: 69.4}
  lists = {
    (2, 4, 6, 8): {2: 63.9, 4: 67.7, 6: 69.5, 8: 69.9},
    (2, 4, 8, 16): {2: 64.2, 4: 67.1, 8: 69.6, 16: 70.2},
    (4, 5, 6, 8): {4: 68.1, 5: 69.6, 6: 70.7, 8: 70.9},
  }
  if scale.name == 'smoke':
    individual, lists = {2: 64.5, 4: 68.7}, {(2, 4): {2: 63.9, 4: 67.7}}
  yield from part.individual(list(individual), individual)
  adabits = {2: 54.1, 4: 66.5, 6: 67.7, 8: 67.9}
  yield from _shared(part, next(iter(lists)), 'activations=match', adabits)
  for bits, paper in lists.items():
    label = f'DPOQ ({",".join(map(str, bits))})'
    yield from part.row(label, bits, paper, f'system=scaled,merge=psbn,{bits_variant(bits)}', top1)


def _shared(
  part: _Part, bits: Sequence[int], variant: str, paper: Mapping[int, float]
) -> Iterator[Cell]:
  """Yields the rows of shared float kernels; the paper's numbers are for the rounded ones."""
  for system, label, numbers in (
    ('shared', 'shared kernels, rounded (AdaBits)', paper),
    ('shared_floor', 'shared kernels, floored (AdaBits)', {}),
  ):
    whole = ','.join(filter(None, [f'system={system},{bits_variant(bits)}', variant]))
    yield from part.row(label, bits, numbers, whole, top1)


def _ensemble(bits: int) -> tuple[str, ...]:
  """Returns the keys of an ensemble's accuracy in a summary."""
  return 'precisions', str(bits), 'ensemble_top1'


@dataclasses.dataclass(frozen=True)
class _Network:
  """Describes a network of Table 2.

  Attributes:
    name: name in the table.
    config: name in the names of config files.
    small: name of the network that stands in for it at small scales.
    model: name of that network in variants.
    width: channels of its first stage.
    activations: bits of the activations.
    bits: bit list.
    numbers: numbers of the paper, by data set: those of the individual networks, of DPOQ and of its
      ensembles (the lowest precision's ensemble is the precision alone).
  """

  name: str
  config: str
  small: str
  model: str
  width: int
  activations: int
  bits: tuple[int, ...]
  numbers: Mapping[str, tuple[tuple[float, ...], ...]]


_TABLE_2 = (
  _Network('ResNet-20', 'resnet20', 'ResNet-8', 'resnet8', 16, 2, (2, 4, 8, 16), {
    'cifar10': (
      (88.27, 89.84, 89.98, 90.13), (87.43, 90.07, 91.08, 91.34), (87.43, 86.69, 90.86, 91.39),
    ),
    'cifar100': (
      (59.45, 62.40, 63.35, 63.51), (58.15, 63.69, 67.39, 68.10), (58.15, 63.12, 66.91, 68.47),
    ),
  }),
  _Network('VGG-11', 'vgg11', '1/4 of VGG-11', 'vgg11', 16, 4, (4, 5, 6, 7), {
    'cifar10': (
      (92.10, 92.18, 92.49, 92.46), (92.14, 92.46, 92.57, 92.58), (92.14, 92.44, 92.45, 92.49),
    ),
    'cifar100': (
      (70.72, 71.22, 71.39, 71.31), (70.64, 71.26, 71.49, 71.47), (70.64, 71.14, 71.35, 71.42),
    ),
  }),
  _Network('MobileNetV2', 'mobilenetv2', '1/4 of MobileNetV2', 'mobilenetv2', 8, 8, (4, 6, 8), {
    'cifar10': ((88.97, 89.18, 89.10), (89.03, 89.05, 89.06), (89.03, 89.05, 89.06)),
    'cifar100': ((68.53, 68.70, 69.28), (69.20, 69.48, 69.89), (69.20, 69.30, 69.55)),
  }),
)  # fmt: skip

TABLES: Mapping[str, Callable[[Scale], Iterator[Cell]]] = {
  'table1': _table1,
  'table2': _table2,
  'table3': _table3,
  **ablation.TABLES,
}
