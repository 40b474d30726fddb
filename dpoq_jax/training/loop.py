"""Runs the training loop: steps, rows of metrics, evaluations, checkpoints, stop and resume."""

import collections
import contextlib
import dataclasses
import pathlib
import time
from typing import Any

import jax
import numpy as np

from dpoq_jax.runtime import processes, signals
from dpoq_jax.runtime import workdir as workdir_lib
from dpoq_jax.training import (
  checkpoint,
  evaluation,
  metrics,
  preparation,
  progress,
  run_identity,
  steps_per_dispatch,
  summary,
  truncated_accuracy,
)
from dpoq_jax.training.experiment import Experiment
from dpoq_jax.training.train_step import MetricSums


class Stopped(Exception):
  """Says, for the user, that the run was asked to stop and has saved."""


class DivergedError(RuntimeError):
  """Says, for the user, that too many steps were not finite."""


def train(
  experiment: Experiment,
  workdir: pathlib.Path,
  *,
  stop: signals.StopRequest,
  display: progress.Progress,
  prepared: preparation.Prepared | None = None,
) -> dict[str, Any]:
  """Trains to the end, from the newest intact checkpoint in `workdir` if there is one.

  Args:
    experiment: experiment to run.
    workdir: directory of the run, for its config, checkpoints, `metrics.jsonl`, TensorBoard events
      and, at the end, `summary.json`.
    stop: request to stop, which is looked at after every dispatch of steps and, in an evaluation,
      after every batch.
    display: display of the progress.
    prepared: what the run begins with, if it is known already; a resumed one does not need it.

  Returns:
    The summary, as written to `summary.json`.

  Raises:
    Stopped: if `stop` was requested; the step reached has been saved.
    DivergedError: if more than `max_skipped_steps` steps were not finite.
    CheckpointError: if there are checkpoints and none can be read, or they are of another run.
    CorruptRecordsError: if more than `max_corrupt` records could not be read.
    OSError: if the workdir cannot be written; what was saved last is as it was.
    MetricsError, ConfigError: see `metrics.read_rows` and `preparation.prepare`.
  """
  with contextlib.ExitStack() as resources:
    top1 = metrics.mean_top1(metrics.read_rows(workdir))
    checkpoints = resources.enter_context(contextlib.closing(checkpoint.Checkpoints(workdir, top1)))
    restored = checkpoints.restore(experiment.abstract_state())
    if restored is None:
      prepared = prepared or preparation.prepare(experiment)
      meta = {'train_seconds': 0.0, 'fixed': prepared.fixed}
      restored = checkpoint.Restored(0, prepared.state, meta)
      take_steps = prepared.take_steps
    else:
      run_identity.check_resumed(
        restored.meta,
        workdir,
        experiment.config,
        experiment.dataset_facts,
        experiment.example_counts,
      )
      take_steps = None
      checkpoints.set_aside_after(restored.step)
      display.say(f'resuming from step {restored.step} of {experiment.total_steps}')
    # After the check, which leaves a run as it was if it is given other data.
    processes.by_first(lambda: workdir_lib.write_config(workdir, experiment.config))
    processes.by_first(lambda: workdir_lib.write_dataset(workdir, experiment.dataset_facts))
    open_log = metrics.MetricsLog if processes.is_first() else metrics.ReadOnlyLog
    log = resources.enter_context(contextlib.closing(open_log(workdir, restored.step)))
    resources.enter_context(display.shown(restored.step, experiment.total_steps))
    experiment.corrupt.restore(restored.meta.get('corrupt', {}))
    run = _Run(experiment, restored, checkpoints, log, display, stop)
    run.train(take_steps)
    result = run.summarise(metrics.best_top1(metrics.read_rows(workdir)))
  processes.by_first(lambda: summary.write(workdir / summary.FILE, result))
  return result


class _Run:
  """Holds a run while it goes on, as far as it concerns this process."""

  def __init__(
    self,
    experiment: Experiment,
    restored: checkpoint.Restored,
    checkpoints: checkpoint.Checkpoints,
    log: metrics.MetricsLog | metrics.ReadOnlyLog,
    display: progress.Progress,
    stop: signals.StopRequest,
  ) -> None:
    self._experiment, self._checkpoints, self._log = experiment, checkpoints, log
    self._display, self._stop = display, stop
    self._state, self._step = restored.state, restored.step
    # Time that the steps took, without compiling, evaluating and saving.
    self._seconds: float = restored.meta['train_seconds']
    # Number of paths that are not trained; earlier checkpoints, without the entry, train all.
    self._fixed: int = restored.meta.get('fixed', 0)
    self._last_row_at = (self._step, self._seconds)
    self._evaluator = evaluation.Evaluator(experiment.network, processes.local_mesh())
    # Evaluation of the state after the last step, once there is one.
    self._final_evaluation: evaluation.Evaluation | None = None

  def train(self, take_steps: steps_per_dispatch.CompiledSteps | None) -> None:
    """Takes the steps that are left; first makes up for an evaluation that a stop cut short.

    Args:
      take_steps: the compiled training step; None if it is yet to be compiled.

    Raises:
      Stopped, DivergedError: see `loop.train`.
    """
    config, total = self._experiment.config, self._experiment.total_steps
    if self._step and self._is_evaluated_at(self._step) and self._step not in self._log.evaluated:
      self._evaluate_and_record()
    if self._step == total:
      return
    if take_steps is None:
      with self._display.compiling():
        take_steps = steps_per_dispatch.compile_steps(
          self._experiment, self._state, fixed=self._fixed
        )
    started, previous = time.perf_counter(), None
    # Closed also when an exception ends the loop, as worker processes may be decoding the images.
    with contextlib.closing(take_steps.batches(self._step)) as batches:
      for number, (steps, batch) in enumerate(batches, start=1):
        self._state, losses = take_steps(self._state, batch)
        self._step += steps
        # One dispatch runs while the next is prepared; more in flight would only delay a stop.
        jax.block_until_ready(previous)
        previous = losses
        self._display.step(self._step)
        log = self._step % config.log_every == 0 or self._step == total
        evaluate = self._is_evaluated_at(self._step)
        every = config.checkpoint_every or self._experiment.steps_per_epoch
        save = evaluate or self._step % every == 0
        stop = signals.agree_on_stop(number, self._stop)
        if not (log or save or stop):
          continue
        jax.block_until_ready(losses)
        self._seconds += time.perf_counter() - started
        self._check_skipped()
        if log:
          self._write_training_row()
        if save or stop:
          self._save()
        if stop:
          self._check_stop()
        if evaluate:
          # After saving, so that a stop can cut the evaluation short: the resumed run repeats it.
          self._evaluate_and_record()
        started = time.perf_counter()

  def summarise(self, best: dict[int, float]) -> dict[str, Any]:
    """Returns the summary of the finished run, given what `metrics.best_top1` returns."""
    if self._final_evaluation is None:
      self._final_evaluation = self._evaluate()
    return summary.summarise(
      self._experiment,
      self._final_evaluation,
      step=self._step,
      train_seconds=self._seconds,
      best=best,
      truncated=truncated_accuracy.measure(
        self._experiment, self._state.variables, self._check_stop
      ),
    )

  @property
  def _epoch(self) -> float:
    """Returns the number of epochs that were trained, with a fraction."""
    return self._step / self._experiment.steps_per_epoch

  def _is_evaluated_at(self, step: int) -> bool:
    """Tells whether the run evaluates after `step`: every `eval_every` epochs and at the end."""
    period = self._experiment.config.eval_every * self._experiment.steps_per_epoch
    return step % period == 0 or step == self._experiment.total_steps

  def _write_training_row(self) -> None:
    """Writes the metrics of the steps since the last row, and starts new sums."""
    sums = jax.device_get(self._state.metrics)
    batch_size, bits = self._experiment.config.data.batch_size, self._experiment.network.bits
    # If every step since the last row was skipped, the row has no loss and no accuracy.
    steps = int(sums.steps)
    examples = steps * batch_size
    row = {
      'step': self._step,
      'kind': 'train',
      'epoch': self._epoch,
      'learning_rate': np.asarray(self._experiment.learning_rate(self._step - 1)).item(),
      'loss': evaluation.by_precision(bits, sums.loss / steps) if steps else {},
      'top1': evaluation.by_precision(bits, sums.correct / examples) if steps else {},
      'skipped': int(self._state.skipped),
    }
    step, seconds = self._last_row_at
    speed = (self._step - step) * batch_size / (self._seconds - seconds)
    self._last_row_at = (self._step, self._seconds)
    self._log.write(row, speed)
    self._display.training(row, speed)
    zeros = MetricSums.zeros(len(bits))
    self._state = dataclasses.replace(self._state, metrics=self._experiment.on_each_device(zeros))

  def _evaluate(self) -> evaluation.Evaluation:
    """Evaluates the current state on the test set."""
    return self._evaluator(
      self._state.variables,
      self._experiment.test_set,
      self._experiment.config.data.batch_size,
      between_batches=self._check_stop,
    )

  def _evaluate_and_record(self) -> None:
    """Evaluates the current state, writes the row, and ranks its checkpoint."""
    evaluated = self._evaluate()
    row = {
      'step': self._step,
      'kind': 'eval',
      'epoch': self._epoch,
      'loss': evaluated.loss(),
      'top1': evaluated.top1(),
      'ensemble_top1': evaluated.ensemble_top1(),
    }
    self._log.write(row)
    self._display.evaluation(row, self._experiment.config.epochs)
    self._checkpoints.top1 |= metrics.mean_top1([row])
    if self._step == self._experiment.total_steps:
      self._final_evaluation = evaluated

  def _save(self) -> None:
    """Starts to save a checkpoint of the current state."""
    # The rows first, since a resumed run does not write those up to its checkpoint again.
    self._log.sync()
    experiment = self._experiment
    meta = {
      'train_seconds': self._seconds,
      'fixed': self._fixed,
      **run_identity.of(experiment.config, experiment.dataset_facts, experiment.example_counts),
      # Every process has met corrupt records of its own.
      'corrupt': dict(collections.ChainMap(*processes.gathered(experiment.corrupt.records))),
    }
    self._checkpoints.save(self._state, meta, step=self._step)

  def _check_stop(self) -> None:
    """Raises `Stopped` if a stop was requested, once the checkpoint is on disk."""
    if self._stop:
      self._checkpoints.wait()
      raise Stopped(f'saved step {self._step} of {self._experiment.total_steps}')

  def _check_skipped(self) -> None:
    """Raises `DivergedError` if too many steps were skipped."""
    skipped, limit = int(self._state.skipped), self._experiment.config.max_skipped_steps
    if skipped > limit:
      raise DivergedError(
        f'{skipped} steps up to step {self._step} had a loss, gradient or update that is not '
        f'finite, more than config.max_skipped_steps={limit}: lower '
        'config.optimizer.learning_rate, in another --workdir.'
      )
