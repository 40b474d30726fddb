"""The training loop: steps, rows of metrics, evaluations, checkpoints, stopping and resuming."""

from collections.abc import Iterator
import dataclasses
import pathlib
import time
from typing import Any

import jax
import numpy as np

from dpoq_jax.data import pipeline, sources
from dpoq_jax.training import (
  checkpoint,
  evaluation,
  experiment,
  metrics,
  progress,
  signals,
  summary,
)
from dpoq_jax.training import state as state_lib


class Stopped(Exception):
  """The run was asked to stop and has saved; the message is for the user."""


class DivergedError(RuntimeError):
  """Too many steps had a non-finite loss or gradient; the message is for the user."""


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
    stop: looked at after every step.
    display: shows what happens.

  Returns:
    The summary, as written to `summary.json`.

  Raises:
    Stopped: if `stop` was requested; a checkpoint of the step reached has been saved.
    DivergedError: after more than `max_skipped_steps` steps without a finite loss.
    CheckpointError: if there are checkpoints, none of them readable.
  """
  run = _Run(setup, workdir, display)
  try:
    run.train(stop)
    return run.finish()
  finally:
    run.close()


class _Run:
  """One process's share of a run, between restoring and closing."""

  def __init__(
    self, setup: experiment.Experiment, workdir: pathlib.Path, display: progress.Progress
  ):
    self._setup, self._workdir, self._display = setup, workdir, display
    self._checkpoints = checkpoint.Checkpoints(workdir)
    self._evaluator = evaluation.Evaluator(setup.onion, setup.mesh)
    restored = self._checkpoints.restore(setup.abstract_state())
    if restored is None:
      self._state, self._step, self._seconds = setup.create_state(), 0, 0.0
    else:
      self._state, self._step = restored.state, restored.step
      self._seconds = restored.meta['train_seconds']
      self._checkpoints.discard_after(restored.step)
      display.say(f'resuming from step {restored.step} of {setup.total_steps}')
    self._log = metrics.MetricsLog(workdir, self._step)
    # Of the current state; none until it is evaluated.
    self._predictions: evaluation.Predictions | None = None

  def train(self, stop: signals.StopRequest) -> None:
    """Takes the steps that are left.

    Raises:
      Stopped, DivergedError: see `loop.train`.
    """
    config, total = self._setup.config, self._setup.total_steps
    if self._step == total:
      return
    train_step = self._compile()
    self._display.start(self._step, total)
    started, previous = time.perf_counter(), None
    for batch in self._batches():
      self._state, losses = train_step(self._state, batch)
      self._step += 1
      # One step runs while the next is prepared; more in flight would only delay a stop.
      jax.block_until_ready(previous)
      previous = losses
      epoch_ends = self._step % self._setup.steps_per_epoch == 0
      log = self._step % config.log_every == 0 or self._step == total
      evaluate = (epoch_ends and self._epoch % config.eval_every == 0) or self._step == total
      every = config.checkpoint_every or self._setup.steps_per_epoch
      save = evaluate or self._step % every == 0
      if not (log or save or stop):
        continue
      jax.block_until_ready(losses)
      self._seconds += time.perf_counter() - started
      self._check_skipped()
      if log:
        self._write_training_row()
      top1 = self._evaluate() if evaluate else None
      if save:
        self._save(top1)
      if stop and self._step < total:
        self._save(None)
        self._checkpoints.wait()
        raise Stopped(f'saved step {self._step} of {total}')
      started = time.perf_counter()

  def finish(self) -> dict[str, Any]:
    """Evaluates the last state, unless that was just done, and writes the summary."""
    self._checkpoints.wait()
    if self._predictions is None:
      self._predictions = self._evaluator(self._state.variables, *self._test)
    result = summary.summarise(
      self._setup,
      self._predictions,
      step=self._step,
      train_seconds=self._seconds,
      best=metrics.best_top1(metrics.read_rows(self._workdir, up_to=self._step)),
    )
    summary.write(summary.summary_file(self._workdir), result)
    return result

  def close(self) -> None:
    """Waits for what is being saved, and closes files."""
    self._display.stop()
    self._checkpoints.close()
    self._log.close()

  @property
  def _epoch(self) -> int:
    return self._step // self._setup.steps_per_epoch

  @property
  def _test(self) -> tuple[sources.ImageSet, int]:
    return self._setup.test_set, self._setup.config.data.batch_size

  def _compile(self) -> jax.stages.Compiled:
    """The step, compiled ahead of time: once, and outside of the time that is measured."""
    setup = self._setup
    step = state_lib.make_train_step(setup.onion, setup.optimizer, setup.config)
    batch = next(iter(self._batches()))
    return jax.jit(step, donate_argnums=0).lower(self._state, batch).compile()

  def _batches(self) -> Iterator[state_lib.Batch]:
    """Batches on the devices, from the current step to the end of the run."""
    setup, first = self._setup, self._epoch
    for epoch in range(first, setup.config.epochs):
      batches = pipeline.training_batches(
        setup.train_set,
        batch_size=setup.config.data.batch_size,
        seed=setup.config.seed,
        epoch=epoch,
        start=self._step % setup.steps_per_epoch if epoch == first else 0,
      )
      for batch in batches:
        yield jax.device_put(batch, setup.batch_sharding)

  def _write_training_row(self) -> None:
    sums = jax.device_get(self._state.metrics)
    batch_size, bits = self._setup.config.data.batch_size, self._setup.onion.bits
    # Rows of an interval in which every step was skipped say so by having no metrics.
    steps = int(sums.steps)
    examples = steps * batch_size
    row = {
      'step': self._step,
      'kind': 'train',
      'epoch': self._step / self._setup.steps_per_epoch,
      'learning_rate': np.asarray(self._setup.learning_rate(self._step - 1)).item(),
      'loss': evaluation.by_precision(bits, sums.loss / steps) if steps else {},
      'top1': evaluation.by_precision(bits, sums.correct / examples) if steps else {},
      'skipped': int(self._state.skipped),
    }
    speed = self._step * batch_size / self._seconds
    self._log.write(row, speed)
    self._display.training(row, speed)
    zeros = state_lib.MetricSums.zeros(len(bits))
    self._state = dataclasses.replace(
      self._state, metrics=jax.device_put(zeros, self._setup.replicated)
    )

  def _evaluate(self) -> float:
    """Evaluates, writes the row, returns the mean top-1 over precisions."""
    self._predictions = self._evaluator(self._state.variables, *self._test)
    top1 = self._predictions.top1()
    row = {
      'step': self._step,
      'kind': 'eval',
      'epoch': self._step / self._setup.steps_per_epoch,
      'loss': self._predictions.loss(),
      'top1': top1,
      'ensemble_top1': self._predictions.ensemble_top1(),
    }
    self._log.write(row)
    self._display.evaluation(row, self._setup.config.epochs)
    return sum(top1.values()) / len(top1)

  def _save(self, top1: float | None) -> None:
    # The rows first: those up to a checkpoint's step are never written again.
    self._log.sync()
    meta = {'train_seconds': self._seconds}
    self._checkpoints.save(self._state, meta, step=self._step, top1=top1)

  def _check_skipped(self) -> None:
    skipped, limit = int(self._state.skipped), self._setup.config.max_skipped_steps
    if skipped > limit:
      raise DivergedError(
        f'{skipped} steps up to step {self._step} had a loss or gradient that is not finite, more '
        f'than config.max_skipped_steps={limit}: lower config.optimizer.learning_rate.'
      )
