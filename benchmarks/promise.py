"""Measures how often a target for the accuracy drop is broken on new data, hoped for and promised.

    python -m benchmarks.promise [--draws=1000] [--drop=0.01] [--confidence=0.9] [--combine=NAME]
        [--logits=FILE] [--workdir=DIR [--data-dir=D]] [--json=FILE]

Each draw chooses two operating points on 5,000 examples: the cheapest that keeps the target on them
(what `dpoq calibrate` does by itself), and the one that `--confidence` promises. Then
the drop of both is measured where it is known. Three kinds of draws:

* synthetic: 10,000 new examples of a made-up problem, halved as a test set is; the drop is that on
  200,000 others.
* halves: the test set of a real network, halved by another seed each time; the drop is that on the
  whole set, and on the half that was not chosen on, which has a sampling error of its own.
* resampled: as many examples drawn from that test set with replacement, so that they are
  independent draws of it; the drop is that on the whole set.

FILE holds the logits of a real network. With --workdir they are those of that run on its test
split, and FILE, rounded to float16, is written:

    python -m benchmarks.promise --workdir=DIR --logits=results/cpu/logits/cifar10_resnet8.npz
"""

from collections.abc import Callable, Iterator
import functools
import json
import pathlib
from typing import Any, NamedTuple, cast

from absl import flags
import numpy as np
import rich.table

from benchmarks import command
from dpoq_jax.inference import calibration, combination, exits
from dpoq_jax.inference.calibration import Examples
from dpoq_jax.inference.operating_point import OperatingPoint, Outcome, Target

LOGITS = pathlib.Path(__file__).parents[1] / 'results/cpu/logits/cifar10_resnet8.npz'
BITS = (2, 4, 8)

_POPULATION = 200_000
_TEST_SET = 10_000

# Tests import several benchmarks, some of which have flags of the same names.
_DRAWS = flags.DEFINE_integer('draws', 1000, 'draws of each kind')
_DROP = flags.DEFINE_float('drop', 0.01, 'target')
_CONFIDENCE = flags.DEFINE_float('confidence', 0.9, 'of the promise')
_COMBINE = flags.DEFINE_enum(
  'combine', None, combination.COMBINATIONS, 'what exits predict from; all are compared by default'
)
_LOGITS = flags.DEFINE_string('logits', str(LOGITS), 'file of logits')
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'run to take the logits of; they are written to the file', allow_override=True
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'where its data set is, if it moved', allow_override=True
)
_JSON = flags.DEFINE_string('json', None, 'file for the figures', allow_override=True)


class Population:
  """Knows what any operating point truly does: the examples that all draws are of."""

  def __init__(self, examples: Examples):
    """Takes the examples."""
    self.highest = float(calibration.alone(examples)[-1].mean())
    # Combinations without fitted weights are the same in all draws.
    self._exits = functools.lru_cache(4)(
      lambda weights: exits.evaluate(examples.logits, examples.labels, weights)
    )

  def outcome(self, point: OperatingPoint) -> Outcome:
    """Returns what an operating point, of temperatures of 1, does."""
    return calibration.outcome_of(point, self._exits(tuple(point.weights.values())))


class Draw(NamedTuple):
  """Holds the examples of a draw.

  Attributes:
    calibration: examples to choose on.
    population: examples on which the drop is what it truly is.
    others: examples beside `calibration` that a user would measure it on.
  """

  calibration: Examples
  population: Population
  others: Examples


class Found(NamedTuple):
  """Holds how an operating point of a draw came out.

  Attributes:
    met: whether it was said to meet the target.
    drop: accuracy drop on the population.
    others_drop: accuracy drop on the others.
    saving: relative cost saved against the highest precision, on the population.
  """

  met: bool
  drop: float
  others_drop: float
  saving: float


def made_up(count: int, seed: int, classes: int = 5) -> Examples:
  """Returns examples of three precisions that know the label the better the more bits they have."""
  random = np.random.default_rng(seed)
  labels = random.integers(0, classes, count)
  hardness = random.normal(0, 1.2, (count, classes))
  noise = random.normal(0, 0.5, (len(BITS), count, classes))
  skill = np.array([2.2, 2.4, 2.6])[:, None, None]
  logits = skill * np.eye(classes)[labels] + hardness + noise
  return Examples(logits.astype(np.float32), labels, f'{count} made up')


def synthetic(draws: int) -> Iterator[Draw]:
  """Yields draws of a made-up problem."""
  population = Population(made_up(_POPULATION, seed=0))
  for seed in range(draws):
    first, second = halves(made_up(_TEST_SET, seed=seed + 1), seed)
    yield Draw(first, population, second)


def halved(whole: Examples, draws: int) -> Iterator[Draw]:
  """Yields draws that halve a test set."""
  population = Population(whole)
  for seed in range(draws):
    first, second = halves(whole, seed)
    yield Draw(first, population, second)


def resampled(whole: Examples, draws: int) -> Iterator[Draw]:
  """Yields draws from a test set with replacement, half as large."""
  population = Population(whole)
  for seed in range(draws):
    random = np.random.default_rng((seed, len(whole)))
    first, second = random.integers(0, len(whole), (2, len(whole) // 2))
    yield Draw(whole.take(first, 'some'), population, whole.take(second, 'others'))


def halves(whole: Examples, seed: int) -> tuple[Examples, Examples]:
  """Returns the halves of a test set."""
  first, second = calibration.split(whole, seed)
  return whole.take(first, 'one half'), whole.take(second, 'the other half')


def choose(draw: Draw, settings: calibration.Settings, seed: int) -> Found:
  """Chooses an operating point on a draw, and measures it."""
  point = calibration.choose(
    draw.calibration, draw.others, BITS, settings, dataset='', step=0, split_seed=seed
  )[0]
  found = draw.population.outcome(point)
  assert point.reported is not None
  return Found(
    point.met,
    draw.population.highest - found.accuracy,
    float(calibration.alone(draw.others)[-1].mean()) - point.reported.accuracy,
    point.bitops[-1] / point.bitops[0] - found.relative_cost if point.met else 0.0,
  )


def measure(
  draws: Iterator[Draw],
  drop: float,
  confidence: float,
  combine: combination.Combination | None = None,
) -> dict[str, Any]:
  """Returns how often each of the two points breaks the target, and what it saves.

  A point that was not said to meet the target breaks nothing and saves nothing.
  """
  target = Target(kind='max_accuracy_drop', value=drop)
  found: dict[str, list[Found]] = {'hoped': [], 'promised': []}
  for seed, draw in enumerate(draws):
    for name, sure in (('hoped', None), ('promised', confidence)):
      settings = calibration.Settings(target, combine=combine, confidence=sure)
      found[name].append(choose(draw, settings, seed))
  saving = {name: float(np.mean([each.saving for each in of])) for name, of in found.items()}
  return {
    name: {
      'met': float(np.mean([each.met for each in of])),
      'broken': float(np.mean([each.met and each.drop > drop for each in of])),
      'broken_on_others': float(np.mean([each.met and each.others_drop > drop for each in of])),
      'mean_drop': float(np.mean([each.drop for each in of])),
      'saving': saving[name],
      'saving_of_hoped': saving[name] / saving['hoped'],
    }
    for name, of in found.items()
  }


def read(path: pathlib.Path) -> Examples:
  """Returns the examples of a file of logits."""
  with np.load(path, allow_pickle=False) as file:
    labels = file['labels'].astype(np.int64)
    return Examples(file['logits'].astype(np.float32), labels, f'{len(labels)} test examples')


def write(path: pathlib.Path, workdir: pathlib.Path, data_dir: str | None) -> None:
  """Writes the logits of a run on its test split, newest checkpoint, as float16."""
  from dpoq_jax import from_run

  opened = from_run.open_network(workdir)
  if opened.network.bits != BITS:
    raise ValueError(f'{workdir} has bits={opened.network.bits}: give a run of bits={BITS}.')
  whole = from_run.held_out(opened, data_dir).whole
  path.parent.mkdir(parents=True, exist_ok=True)
  np.savez_compressed(
    path, logits=whole.logits.astype(np.float16), labels=whole.labels.astype(np.uint16)
  )


def main(_: list[str]) -> None:
  """Draws, chooses and measures; prints the table and writes the figures."""
  path, drop, confidence = pathlib.Path(_LOGITS.value), _DROP.value, _CONFIDENCE.value
  if _WORKDIR.value:
    write(path, pathlib.Path(_WORKDIR.value), _DATA_DIR.value)
  whole, count = read(path), _DRAWS.value
  kinds: dict[str, Callable[[], Iterator[Draw]]] = {
    'synthetic': lambda: synthetic(count),
    'halves': lambda: halved(whole, count),
    'resampled': lambda: resampled(whole, count),
  }
  table = rich.table.Table(
    title=f'A drop of at most {100 * drop:g} points, {count} draws, confidence {confidence:g}'
  )
  for column in ('draws', 'point', 'met %', 'broken %', 'on others %', 'drop', 'saving %'):
    table.add_column(column, justify='right')
  figures: dict[str, Any] = {}
  for kind, draws in kinds.items():
    figures[kind] = measure(draws(), drop, confidence, cast(Any, _COMBINE.value))
    for name, of in figures[kind].items():
      table.add_row(
        kind, name,
        *(f'{100 * of[each]:.1f}' for each in ('met', 'broken', 'broken_on_others')),
        f'{100 * of["mean_drop"]:.2f}', f'{100 * of["saving_of_hoped"]:.1f}',
      )  # fmt: skip
  command.console().print(table)
  if _JSON.value:
    options = {'draws': count, 'drop': drop, 'confidence': confidence, 'combine': _COMBINE.value}
    text = json.dumps({**options, 'logits': path.name, 'figures': figures}, indent=1)
    pathlib.Path(_JSON.value).write_text(text + '\n')


if __name__ == '__main__':
  command.start(main)
