"""Saves the checkpoints of a run in the background, and verifies what it reads back.

Orbax writes a checkpoint atomically, but does not notice a flipped bit in the arrays that it reads
back, so every checkpoint carries a digest of its arrays.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import contextlib
import gc
import json
import logging
import os
import pathlib
import re
import shutil
import sys
import time
import traceback
from typing import Any, NamedTuple
import warnings
import zlib

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

from dpoq_jax.runtime import processes

_SECONDS_TO_END_READS = 0.3


class CheckpointError(ValueError):
  """Says, in one line for the user, that no checkpoint of a run can be read."""


class StorageError(OSError):
  """Says, in one line for the user, that a checkpoint could not be stored."""


class Restored(NamedTuple):
  """Holds what was read from a checkpoint.

  Attributes:
    step: the step of training at which it was saved, which is its number.
    state: the arrays, in the structure, shardings and dtypes asked for.
    meta: the JSON object saved with them.
  """

  step: int
  state: Any
  meta: dict[str, Any]


def steps_saved(workdir: pathlib.Path) -> list[int]:
  """Returns the steps of the checkpoints of the run in `workdir`, increasing, readable or not."""
  names = [path.name for path in (workdir / 'checkpoints').glob('*')]
  return sorted(int(name) for name in names if re.fullmatch('[0-9]+', name))


class Checkpoints:
  """Saves and restores the checkpoints of one run.

  Keeps the newest two, so that a run survives a broken one, and the one evaluated best.

  Attributes:
    top1: Top-1 of each step evaluated so far, its mean over precisions; it ranks the checkpoints,
      since Orbax's own ranking does not survive a restart.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    top1: Mapping[int, float] | None = None,
    *,
    read_only: bool = False,
  ) -> None:
    """Opens the checkpoints of the run in `workdir`.

    Args:
      workdir: directory of the run.
      top1: mean top-1 of the steps evaluated before.
      read_only: whether to leave the directory as it is, since another process may be saving.
    """
    self.top1 = dict(top1 or {})
    self._directory = workdir.absolute() / 'checkpoints'
    keep = policies.AnyPreservationPolicy([policies.LatestN(n=2), _Best(self.top1)])
    options = ocp.CheckpointManagerOptions(
      preservation_policy=keep,
      cleanup_tmp_directories=not read_only,
      read_only=read_only,
      create=not read_only,
      save_interval_steps=0 if read_only else 1,
    )
    with _unwarned():
      self._manager = ocp.CheckpointManager(epath.Path(self._directory), options=options)
    self._until_closed = contextlib.ExitStack()
    self._until_closed.enter_context(_quiet_late_writes())
    # Whether a checkpoint was read back, which says that the directory keeps what is saved there.
    self._is_proven = False

  def save(self, state: Any, meta: dict[str, Any], *, step: int) -> None:
    """Starts to save a checkpoint: returns once the arrays are copied, before they are on disk.

    Args:
      state: pytree of arrays.
      meta: JSON object that is saved with it.
      step: number of the checkpoint. If there is one of that number, it is left as it is.

    The first checkpoint is read back before this returns, so that no run trains to its end and has
    nothing.

    Raises:
      StorageError: if it cannot be read back, or the save before this one failed, of a full disk
        for example.
    """
    if step in self._manager.all_steps():
      return
    arguments = ocp.args.Composite(
      state=ocp.args.StandardSave(state),
      meta=ocp.args.JsonSave({**meta, 'digest': digest(state), 'meta_digest': _text_digest(meta)}),
    )
    with self._storing(), _quiet_coroutines():
      self._manager.save(step, args=arguments)
      if not self._is_proven:
        self._manager.wait_until_finished()
        self._read(step, state)

  def best_step(self) -> int | None:
    """Returns the step of the checkpoint evaluated best; None if none has been evaluated."""
    return _best(self._manager.all_steps(), self.top1)

  def restore(self, like: Any, step: int | None = None) -> Restored | None:
    """Reads the newest intact checkpoint, skipping broken ones with a warning.

    Args:
      like: structure to restore: a pytree of arrays, or of `jax.ShapeDtypeStruct` with shardings.
      step: number of the only checkpoint to try; None tries all of them.

    Returns:
      What it held; None if there are no checkpoints.

    Raises:
      CheckpointError: if there are checkpoints and none is intact, or `step` is not among them.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    if step is not None and step not in steps:
      raise CheckpointError(f'{self._directory} has checkpoints {sorted(steps)}, not {step}.')
    reason, cause = '', None
    for candidate in steps if step is None else [step]:
      restored = None
      try:
        restored = self._read(candidate, like)
      except MemoryError:
        raise
      # Of any type: what Orbax and TensorStore raise depends on which part is broken.
      except Exception as error:
        cause, reason = error, _reason(error)
        warnings.warn(
          f'skipping broken checkpoint {self._directory / str(candidate)}: {reason}', stacklevel=2
        )
      if processes.in_all(restored is not None):
        return restored
    if steps:
      raise CheckpointError(
        f'no checkpoint in {self._directory} can be read ({reason}); to start over give another '
        '--workdir.'
      ) from cause
    return None

  def wait(self) -> None:
    """Waits until what was saved is on disk; raises `StorageError` if it cannot be stored."""
    with self._storing(), _quiet_coroutines():
      self._manager.wait_until_finished()

  def set_aside_after(self, step: int) -> None:
    """Renames the checkpoints newer than `step`, which were skipped as broken, out of the way."""

    def set_aside() -> None:
      for newer in [s for s in self._manager.all_steps() if s > step]:
        aside = self._directory / f'{newer}.broken'
        # A checkpoint of this step may have been set aside before.
        shutil.rmtree(aside, ignore_errors=True)
        (self._directory / str(newer)).rename(aside)

    processes.by_first(set_aside)
    self._manager.reload()

  def close(self) -> None:
    """Waits until what was saved is on disk, and closes the directory; raises as `wait` does."""
    with self._until_closed, self._storing(), _quiet_coroutines():
      self._manager.close()

  @contextlib.contextmanager
  def _storing(self) -> Iterator[None]:
    """Turns what Orbax raises if it cannot store a checkpoint, of whatever type, into one error."""
    try:
      yield
    except Exception as error:
      raise StorageError(
        f'no checkpoint can be stored in {self._directory} ({_reason(error)})'
      ) from error

  def _read(self, step: int, like: Any) -> Restored:
    """Reads a checkpoint, and checks that its arrays are those that were saved."""
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    arguments = ocp.args.Composite(
      state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()
    )
    with _quiet_coroutines():
      restored = self._manager.restore(step, args=arguments)
    meta = dict(restored['meta'])
    # Earlier versions had none of the JSON object.
    of_state, of_meta = meta.pop('digest'), meta.pop('meta_digest', None)
    if of_state != digest(restored['state']) or of_meta not in (None, _text_digest(meta)):
      raise CheckpointError('it does not hold what was saved')
    self._is_proven = True
    return Restored(step, restored['state'], meta)


class _Best(policies.PreservationPolicy):
  """Keeps the checkpoint evaluated best."""

  def __init__(self, top1: Mapping[int, float]) -> None:
    self._top1 = top1

  def should_preserve(
    self,
    checkpoints: Sequence[policies.PolicyCheckpointInfo],
    *,
    context: policies.PreservationContext,
  ) -> Sequence[bool]:
    """Tells of each checkpoint whether it is kept."""
    del context
    best = _best([info.step for info in checkpoints], self._top1)
    return [info.step == best for info in checkpoints]


def _best(steps: Iterable[int], top1: Mapping[int, float]) -> int | None:
  """Returns the step evaluated best, if any was evaluated."""
  return max((step for step in steps if step in top1), key=lambda step: top1[step], default=None)


def _reason(error: Exception) -> str:
  """Returns the first line of an error, shortened: TensorStore's are long."""
  if found := re.search("os_error_code='([0-9]+)'", str(error)):
    return os.strerror(int(found[1]))
  return str(error).strip().partition('\n')[0][:200]


def digest(state: Any) -> int:
  """Returns the CRC-32 of all leaves, in the order of the tree."""
  found = 0
  for leaf in jax.tree.leaves(jax.device_get(state)):
    found = zlib.crc32(np.asarray(leaf).tobytes(), found)
  return found


def _text_digest(meta: Mapping[str, Any]) -> int:
  """Returns the CRC-32 of a JSON object."""
  return zlib.crc32(json.dumps(meta, sort_keys=True).encode())


@contextlib.contextmanager
def _quiet_coroutines() -> Iterator[None]:
  """Keeps a failed restore from printing a page for each coroutine that it leaves unfinished.

  An unfinished coroutine complains when it is freed, so all of them are freed here, with nobody
  listening. Some are held by variables of the frames that the error passed through, which are
  cleared; the traceback itself, files and lines, stays with the error.
  """
  hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
  try:
    yield
  except Exception as error:
    for each in _with_causes(error):
      traceback.clear_frames(each.__traceback__)
    # Others are held by reads under way in TensorStore's threads, which end within this time.
    time.sleep(_SECONDS_TO_END_READS)
    gc.collect()
    raise
  finally:
    sys.unraisablehook = hook


@contextlib.contextmanager
def _unwarned() -> Iterator[None]:
  """Drops Orbax's warning that a directory is opened to be read alone, as it was asked for."""

  def is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith('Given directory is read only')

  log = logging.getLogger('absl')
  log.addFilter(is_news)
  try:
    yield
  finally:
    log.removeFilter(is_news)


@contextlib.contextmanager
def _quiet_late_writes() -> Iterator[None]:
  """Drops what TensorStore's threads print of a save that failed in the background.

  The first array that cannot be written ends the save's event loop, and each of the others then
  finds it closed. The error itself is raised by the next save, or by the wait for this one.
  """
  hook = sys.unraisablehook

  def pass_on(unraisable: 'sys.UnraisableHookArgs') -> None:
    if str(unraisable.exc_value) != 'Event loop is closed':
      hook(unraisable)

  sys.unraisablehook = pass_on
  try:
    yield
  finally:
    sys.unraisablehook = hook


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
  """Yields an error, then what it was raised from or while handling, and so on."""
  while error is not None:
    yield error
    error = error.__cause__ or error.__context__
