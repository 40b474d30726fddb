"""What a run comes to: accuracy, cost and size of every precision."""

from collections.abc import Mapping
import json
import pathlib
from typing import Any, Literal

import jax
import rich.table

from dpoq_jax.runtime import processes
from dpoq_jax.runtime.files import write_whole
from dpoq_jax.training import evaluation, experiment, metrics, restore, truncated_accuracy

FILE = 'summary.json'


def summarise(
  setup: experiment.Experiment,
  predictions: evaluation.Predictions,
  *,
  step: int,
  train_seconds: float,
  best: Mapping[int, float],
  truncated: Mapping[int, Mapping[str, float]],
  only: int | None = None,
) -> dict[str, Any]:
  """The content of `summary.json`.

  Args:
    setup: what was trained.
    predictions: on the test set.
    step: steps taken.
    train_seconds: spent on them; compiling, evaluating and saving not counted.
    best: highest evaluated top-1 of each precision so far.
    truncated: what `truncation.evaluate` returns.
    only: bits of the only precision to report; all by default.

  Returns:
    A JSON object. Accuracies in [0, 1]; `relative_bitops` as multiples of the lowest precision's,
    at fixed activation bits; `bytes` of the network cut at that precision.
  """
  config, bits = setup.config, setup.network.bits
  sizes = setup.network.stored_bytes(
    jax.eval_shape(setup.network.freeze, setup.abstract_state().variables)
  )
  top1, ensemble = predictions.top1(), predictions.ensemble_top1()
  return {
    'dataset': config.data.name,
    'model': config.model.label,
    'bits': list(bits),
    'steps': step,
    'examples_per_second': step * config.data.batch_size / train_seconds,
    'precisions': {
      str(precision): {
        'top1': top1[precision],
        'top1_best': max(top1[precision], best.get(precision, 0.0)),
        'ensemble_top1': ensemble[precision],
        'relative_bitops': precision / bits[0],
        'bytes': sizes[precision],
      }
      for precision in ((only,) if only else bits)
    },
    **({'truncated': truncated} if truncated else {}),
  }


def evaluate_checkpoint(
  setup: experiment.Experiment,
  workdir: pathlib.Path,
  *,
  precision: int | None = None,
  step: int | Literal['best'] | None = None,
) -> dict[str, Any]:
  """Restores a checkpoint, freezes it to integers, evaluates it and writes its summary.

  The file is `summary.json`, or `summary_step_N.json`, `summary_B_bits.json` or
  `summary_step_N_B_bits.json` for what is not the whole newest state.

  Args:
    setup: what was trained.
    workdir: of the run.
    precision: bits of the only precision wanted; all by default.
    step: of the checkpoint, or the one evaluated best; the newest by default.

  Raises:
    FileNotFoundError: if the run has no checkpoint yet, or none that was evaluated when the best
      is asked for.
    CheckpointError: if there is no intact one, or none of that step.
    ValueError: if the network does not have that precision.
  """
  rows = metrics.read_rows(workdir)
  restored = restore.restore(workdir, setup.abstract_state(), step)
  evaluate = evaluation.Evaluator(setup.network, processes.local_mesh())
  predictions = evaluate(
    restored.state.variables, setup.test_set, setup.config.data.batch_size, precision
  )
  summary = summarise(
    setup,
    predictions,
    step=restored.step,
    best=metrics.best_top1([row for row in rows if row['step'] <= restored.step]),
    truncated=truncated_accuracy.evaluate(setup, restored.state.variables),
    only=precision,
    train_seconds=restored.meta['train_seconds'],
  )
  parts = ['summary', *([f'step_{restored.step}'] if step else [])]
  parts += [f'{precision}_bits'] if precision else []
  processes.by_first(lambda: write(workdir / f'{"_".join(parts)}.json', summary))
  return summary


def write(path: pathlib.Path, summary: Mapping[str, Any]) -> None:
  """Writes a summary as JSON, in one piece."""
  write_whole(path, json.dumps(summary, indent=2) + '\n')


def table(summary: Mapping[str, Any]) -> rich.table.Table:
  """The summary as a table, a row per precision; accuracies in percent."""
  title = f'{summary["model"]} on {summary["dataset"]}, step {summary["steps"]}'
  result = rich.table.Table(title=title)
  for column in ('bits', 'top-1 %', 'best %', 'ensemble %', 'relative BitOPs', 'bytes'):
    result.add_column(column, justify='right')
  for bits, row in summary['precisions'].items():
    accuracies = (row['top1'], row['top1_best'], row['ensemble_top1'])
    result.add_row(
      bits,
      *(f'{100 * accuracy:.2f}' for accuracy in accuracies),
      f'{row["relative_bitops"]:g}',
      f'{row["bytes"]:,}',
    )
  for bits, row in summary.get('truncated', {}).items():
    result.add_row(f'{bits}, truncated', f'{100 * row["top1"]:.2f}')
    result.add_row(f'{bits}, statistics renewed', f'{100 * row["top1_reestimated"]:.2f}')
  return result
