"""Summarises a run: accuracy, cost and size of every precision."""

from collections.abc import Mapping
import json
import pathlib
from typing import Any, Literal

import jax
import rich.table

from dpoq_jax.network import costs
from dpoq_jax.runtime import processes
from dpoq_jax.runtime import workdir as workdir_lib
from dpoq_jax.runtime.files import write_whole
from dpoq_jax.training import checkpoint, metrics, splits, trained_network, truncated_accuracy
from dpoq_jax.training import experiment as experiment_lib
from dpoq_jax.training.evaluation import Evaluation, Evaluator
from dpoq_jax.training.experiment import Experiment

FILE = 'summary.json'


def summarise(
  experiment: Experiment,
  evaluation: Evaluation,
  *,
  step: int,
  train_seconds: float,
  best: Mapping[int, float],
  truncated: Mapping[int, Mapping[str, float]],
  only: int | None = None,
) -> dict[str, Any]:
  """Returns the content of `summary.json`.

  Args:
    experiment: experiment that was run.
    evaluation: evaluation on the test set.
    step: steps taken.
    train_seconds: seconds that the steps took, without compiling, evaluating and saving.
    best: highest top-1 accuracy of each precision in the evaluations so far.
    truncated: accuracies that `truncated_accuracy.measure` returns.
    only: bits of the only precision to report; None reports all.

  Returns:
    A JSON object. Accuracies are in [0, 1]; `bitops` are those of one image, laterals included, of
    which `lateral_bitops` says how many they are; `relative_bitops` are `bitops` over those of the
    lowest precision; `bytes` is the size of the network cut at the precision.
  """
  config, bits = experiment.config, experiment.network.bits
  sizes = experiment.network.stored_bytes(
    jax.eval_shape(experiment.network.freeze, experiment.abstract_state().variables)
  )
  top1, ensemble = evaluation.top1(), evaluation.ensemble_top1()
  counted = costs.bitops(experiment.network, experiment.test_set.image_shape)
  bitops = dict(zip(bits, counted, strict=True))
  return {
    'dataset': config.data.name,
    'split': experiment.test_set.split,
    'model': config.model.label,
    'bits': list(bits),
    'steps': step,
    'examples_per_second': step * config.data.batch_size / train_seconds,
    'precisions': {
      str(precision): {
        'top1': top1[precision],
        'top1_best': max(top1[precision], best.get(precision, 0.0)),
        'ensemble_top1': ensemble[precision],
        'bitops': bitops[precision].total,
        'lateral_bitops': bitops[precision].laterals,
        'relative_bitops': bitops[precision].total / bitops[bits[0]].total,
        'bytes': sizes[precision],
      }
      for precision in ((only,) if only else bits)
    },
    **({'truncated': truncated} if truncated else {}),
  }


def evaluate_checkpoint(
  experiment: Experiment,
  workdir: pathlib.Path,
  *,
  precision: int | None = None,
  step: int | Literal['best'] | None = None,
) -> dict[str, Any]:
  """Restores a checkpoint, freezes it to integers, evaluates it and returns its summary.

  Args:
    experiment: experiment that was run.
    workdir: directory of the run.
    precision: bits of the only precision to report; None reports all.
    step: step of the checkpoint, or `best` for the one evaluated best; None is the newest.

  Returns:
    What `summarise` returns.

  Raises:
    FileNotFoundError: if the run has no checkpoint yet, or the best one is asked for and none has
      been evaluated.
    CheckpointError: if no checkpoint is intact, or there is none of that step.
    ValueError: if the network does not have that precision, the data set has other images or
      classes than those trained on, or several processes read different checkpoints.
  """

  def read() -> list[dict[str, Any]]:
    facts = workdir_lib.read_dataset(workdir)
    splits.check_trained_on(experiment.config.data, experiment.test_set, facts)
    trained_network.check_saved(workdir)
    return metrics.read_rows(workdir)

  rows = processes.in_each(read)
  restored = trained_network.read_checkpoint(workdir, experiment.abstract_state(), step)
  saved = {'step': restored.step, 'checksum': checkpoint.digest(restored.state)}
  experiment_lib.check_same(saved, 'checkpoints', '--workdir')
  evaluate = Evaluator(experiment.network, processes.local_mesh())
  evaluation = evaluate(
    restored.state.variables, experiment.test_set, experiment.config.data.batch_size, precision
  )
  return summarise(
    experiment,
    evaluation,
    step=restored.step,
    best=metrics.best_top1([row for row in rows if row['step'] <= restored.step]),
    truncated=truncated_accuracy.measure(experiment, restored.state.variables),
    only=precision,
    train_seconds=restored.meta['train_seconds'],
  )


def file_name(*, step: int | None = None, precision: int | None = None) -> str:
  """Returns the name of the file of a summary, for what is not the whole newest state another."""
  parts = ['summary', *([f'step_{step}'] if step is not None else [])]
  parts += [f'{precision}_bits'] if precision is not None else []
  return f'{"_".join(parts)}.json'


def write(path: pathlib.Path, summary: Mapping[str, Any]) -> None:
  """Writes a summary as JSON: the file is the old one or the new one, never a part."""
  write_whole(path, json.dumps(summary, indent=2) + '\n')


# Explains the heads of the columns.
_CAPTION = """\
top-1: at this step, on the test examples
best: the highest of all evaluations, each precision its own: chosen on these same examples
ensemble: the mean of the probabilities of this precision and of those below it
G BitOPs: 10^9 multiply-adds times the bits of both factors, of one image, merging laterals included
relative: those BitOPs over those of the lowest precision
bytes: of the network cut at this precision\
"""


def table(summary: Mapping[str, Any]) -> rich.table.Table:
  """Returns the summary as a table of one line for each precision, accuracies in percent.

  It is for a `runtime.console.Console`, which leaves text in brackets as it is.
  """
  title = (
    f'{summary["model"]} on {summary["dataset"]} ({summary["split"]}), step {summary["steps"]}'
  )
  result = rich.table.Table(title=title, caption=_CAPTION, caption_justify='left')
  for column in ('bits', 'top-1 %', 'best %', 'ensemble %', 'G BitOPs', 'relative', 'bytes'):
    result.add_column(column, justify='right')
  for bits, measured in summary['precisions'].items():
    accuracies = (measured['top1'], measured['top1_best'], measured['ensemble_top1'])
    result.add_row(
      bits,
      *(f'{100 * accuracy:.2f}' for accuracy in accuracies),
      f'{measured["bitops"] / 1e9:.3g}',
      f'{measured["relative_bitops"]:.3g}',
      f'{measured["bytes"]:,}',
    )
  for bits, top1 in summary.get('truncated', {}).items():
    result.add_row(f'{bits}, truncated', f'{100 * top1["top1"]:.2f}')
    result.add_row(f'{bits}, statistics renewed', f'{100 * top1["top1_reestimated"]:.2f}')
  return result
