"""The training loop: steps, rows of metrics, evaluations, checkpoints, stopping and resuming."""

import collections
import contextlib
import dataclasses
import pathlib
import time
from typing import Any

import jax
import numpy as np

from dpoq_jax.runtime import processes, signals
from dpoq_jax.runtime.workdir import write_dataset
from dpoq_jax.training import (
  checkpoint,
  evaluation,
  experiment,
  metrics,
  progress,
  steps_per_dispatch,
  summary,
  truncated_accuracy,
  warm_start,
)
from dpoq_jax.training import train_step as state_lib


class Stopped(Exception):
  """The run was asked to stop and has saved; the message is for the user."""


class DivergedError(RuntimeError):
  """Too many steps were not finite; the message is for the user."""


def train(
  setup: experiment.Experiment,
  workdir: pathlib.Path,
  *,
  stop: signals.StopRequest,
  display: progress.Progress,
) -> dict[str, Any]:
  """Trains to the end, from the newest intact checkpoint in `workdir` if there is one.

  Args:
    setup: what to train.
    workdir: holds checkpoints, `metrics.jsonl`, TensorBoard events and, at the end, `summary.json`.
    stop: looked at after every dispatch of steps and every batch of an evaluation.
    display: shows what happens.

  Returns:
    The summary, as written to `summary.json`.

  Raises:
    Stopped: if `stop` was requested; the step reached has been saved.
    DivergedError: after more than `max_skipped_steps` steps that were not finite.
    CheckpointError: if there are checkpoints, none of them readable.
    CorruptRecordsError: after more than `max_corrupt` records that could not be read.
  """
  processes.by_first(lambda: write_dataset(workdir, setup.dataset_facts))
  with contextlib.ExitStack() as resources:
    top1 = metrics.mean_top1(metrics.read_rows(workdir))
    checkpoints = resources.enter_context(contextlib.closing(checkpoint.Checkpoints(workdir, top1)))
    restored = checkpoints.restore(setup.abstract_state())
    if restored is None:
      state, fixed = warm_start.initial_state(setup)
      restored = checkpoint.Restored(0, state, {'train_seconds': 0.0, 'fixed': fixed})
    else:
      checkpoints.set_aside_after(restored.step)
      display.say(f'resuming from step {restored.step} of {setup.total_steps}')
    open_log = metrics.MetricsLog if processes.is_first() else metrics.UnwrittenLog
    log = resources.enter_context(contextlib.closing(open_log(workdir, restored.step)))
    resources.enter_context(display.shown(restored.step, setup.total_steps))
    setup.corrupt.restore(restored.meta.get('corrupt', {}))
    run = _Run(setup, restored, checkpoints, log, display, stop)
    run.train()
    result = run.summarise(metrics.best_top1(metrics.read_rows(workdir)))
  processes.by_first(lambda: summary.write(workdir / summary.FILE, result))
  return result


class _Run:
  """One process's share of a run."""

  def __init__(
    self,
    setup: experiment.Experiment,
    restored: checkpoint.Restored,
    checkpoints: checkpoint.Checkpoints,
    log: metrics.MetricsLog | metrics.UnwrittenLog,
    display: progress.Progress,
    stop: signals.StopRequest,
  ):
    self._setup, self._checkpoints, self._log = setup, checkpoints, log
    self._display, self._stop = display, stop
    self._state, self._step = restored.state, restored.step
    # Steps alone: compiling, evaluating and saving are not counted.
    self._seconds: float = restored.meta['train_seconds']
    # How many paths are not trained; none in checkpoints that do not say.
    self._fixed: int = restored.meta.get('fixed', 0)
    self._logged = (self._step, self._seconds)
    self._evaluator = evaluation.Evaluator(setup.network, processes.local_mesh())
    # Of the current state; none until it is evaluated.
    self._predictions: evaluation.Predictions | None = None

  def train(self) -> None:
    """Takes the steps that are left, and the evaluation that a stop may have cut short.

    Raises:
      Stopped, DivergedError: see `loop.train`.
    """
    config, total = self._setup.config, self._setup.total_steps
    if self._step and self._is_evaluated_at(self._step) and self._step not in self._log.evaluated:
      self._evaluate()
    if self._step == total:
      return
    take_steps = steps_per_dispatch.compile_steps(self._setup, self._state, fixed=self._fixed)
    started, previous = time.perf_counter(), None
    # Closed also if an exception ends it: worker processes may be behind it.
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
        every = config.checkpoint_every or self._setup.steps_per_epoch
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
          # After saving, so that a stop need not wait for it: it is made up for on resuming.
          self._evaluate()
        started = time.perf_counter()

  def summarise(self, best: dict[int, float]) -> dict[str, Any]:
    """The summary of the finished run; `best` as `metrics.best_top1` gives it."""
    if self._predictions is None:
      self._predictions = self._predict()
    return summary.summarise(
      self._setup,
      self._predictions,
      step=self._step,
      train_seconds=self._seconds,
      best=best,
      truncated=truncated_accuracy.evaluate(self._setup, self._state.variables, self._check_stop),
    )

  @property
  def _epoch(self) -> float:
    return self._step / self._setup.steps_per_epoch

  def _is_evaluated_at(self, step: int) -> bool:
    """Every `eval_every` epochs, and at the end."""
    period = self._setup.config.eval_every * self._setup.steps_per_epoch
    return step % period == 0 or step == self._setup.total_steps

  def _write_training_row(self) -> None:
    sums = jax.device_get(self._state.metrics)
    batch_size, bits = self._setup.config.data.batch_size, self._setup.network.bits
    # Rows of an interval in which every step was skipped say so by having no metrics.
    steps = int(sums.steps)
    examples = steps * batch_size
    row = {
      'step': self._step,
      'kind': 'train',
      'epoch': self._epoch,
      'learning_rate': np.asarray(self._setup.learning_rate(self._step - 1)).item(),
      'loss': evaluation.by_precision(bits, sums.loss / steps) if steps else {},
      'top1': evaluation.by_precision(bits, sums.correct / examples) if steps else {},
      'skipped': int(self._state.skipped),
    }
    step, seconds = self._logged
    speed = (self._step - step) * batch_size / (self._seconds - seconds)
    self._logged = (self._step, self._seconds)
    self._log.write(row, speed)
    self._display.training(row, speed)
    zeros = state_lib.MetricSums.zeros(len(bits))
    self._state = dataclasses.replace(self._state, metrics=self._setup.on_each_device(zeros))

  def _predict(self) -> evaluation.Predictions:
    return self._evaluator(
      self._state.variables,
      self._setup.test_set,
      self._setup.config.data.batch_size,
      between_batches=self._check_stop,
    )

  def _evaluate(self) -> None:
    """Evaluates, writes the row, ranks the checkpoint."""
    predictions = self._predict()
    row = {
      'step': self._step,
      'kind': 'eval',
      'epoch': self._epoch,
      'loss': predictions.loss(),
      'top1': predictions.top1(),
      'ensemble_top1': predictions.ensemble_top1(),
    }
    self._log.write(row)
    self._display.evaluation(row, self._setup.config.epochs)
    self._checkpoints.top1 |= metrics.mean_top1([row])
    self._predictions = predictions if self._step == self._setup.total_steps else None

  def _save(self) -> None:
    # The rows first: those up to a checkpoint's step are not written again.
    self._log.sync()
    meta = {
      'train_seconds': self._seconds,
      'fixed': self._fixed,
      # Each process has met its own.
      'corrupt': dict(collections.ChainMap(*processes.gathered(self._setup.corrupt.records))),
    }
    self._checkpoints.save(self._state, meta, step=self._step)

  def _check_stop(self) -> None:
    if self._stop:
      self._checkpoints.wait()
      raise Stopped(f'saved step {self._step} of {self._setup.total_steps}')

  def _check_skipped(self) -> None:
    skipped, limit = int(self._state.skipped), self._setup.config.max_skipped_steps
    if skipped > limit:
      raise DivergedError(
        f'{skipped} steps up to step {self._step} had a loss, gradient or update that is not '
        f'finite, more than config.max_skipped_steps={limit}: lower '
        'config.optimizer.learning_rate, in another --workdir.'
      )
