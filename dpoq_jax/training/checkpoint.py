"""Checkpoints of a run: written in the background, verified when read, newest first.

Orbax writes them atomically, but does not notice a flipped bit in the array data it reads back, so
every checkpoint carries a digest of its arrays.
"""

from collections.abc import Iterable, Iterator, Mapping
import contextlib
import gc
import pathlib
import shutil
import sys
from typing import Any, NamedTuple
import warnings
import zlib

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

from dpoq_jax.runtime import processes


class CheckpointError(ValueError):
  """No checkpoint of a run can be read; the message is one line for the user."""


class Restored(NamedTuple):
  """What a checkpoint held.

  Attributes:
    step: its number.
    state: of the structure, shardings and dtypes asked for.
    meta: the JSON object saved with it.
  """

  step: int
  state: Any
  meta: dict[str, Any]


def exist(workdir: pathlib.Path) -> bool:
  """Whether the run in `workdir` has saved anything yet, readable or not."""
  return any(path.name.isdigit() for path in (workdir / 'checkpoints').glob('*'))


class Checkpoints:
  """The checkpoints of one run.

  Keeps the newest two (so that one broken is not the end) and the best one.

  Attributes:
    top1: mean top-1 over precisions of the steps evaluated so far; ranks the checkpoints. Orbax's
      own ranking does not survive a restart.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    top1: Mapping[int, float] | None = None,
    *,
    read_only: bool = False,
  ):
    """Opens the checkpoints of the run in `workdir`.

    Args:
      workdir: directory of the run.
      top1: mean top-1 of the steps evaluated before.
      read_only: touch nothing, since another process may be saving.
    """
    self.top1 = dict(top1 or {})
    self._directory = workdir.absolute() / 'checkpoints'
    keep = policies.AnyPreservationPolicy([policies.LatestN(n=2), _Best(self.top1)])
    options = ocp.CheckpointManagerOptions(
      preservation_policy=keep,
      cleanup_tmp_directories=not read_only,
      read_only=read_only,
      create=not read_only,
    )
    self._manager = ocp.CheckpointManager(epath.Path(self._directory), options=options)

  def save(self, state: Any, meta: dict[str, Any], *, step: int) -> None:
    """Starts saving; returns once the arrays are copied, before they are on disk.

    Args:
      state: pytree of arrays.
      meta: JSON object saved with it.
      step: number of the checkpoint. One of the same number is left as it is.

    Raises:
      Exception: what the save before this one failed with, a full disk for example.
    """
    if step in self._manager.all_steps():
      return
    arguments = ocp.args.Composite(
      state=ocp.args.StandardSave(state),
      meta=ocp.args.JsonSave({**meta, 'digest': _digest(state)}),
    )
    self._manager.save(step, args=arguments)

  def best_step(self) -> int | None:
    """The step evaluated best among the checkpoints there are, if any was evaluated."""
    return _best(self._manager.all_steps(), self.top1)

  def restore(self, like: Any, step: int | None = None) -> Restored | None:
    """Reads the newest intact checkpoint, skipping broken ones with a warning.

    Args:
      like: pytree of arrays or `jax.ShapeDtypeStruct` with shardings, the structure to restore.
      step: this checkpoint alone.

    Returns:
      None if there are no checkpoints.

    Raises:
      CheckpointError: if there are checkpoints and none is intact, or `step` is not among them.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    if step is not None and step not in steps:
      raise CheckpointError(f'{self._directory} has checkpoints {sorted(steps)}, not {step}.')
    reason = ''
    for candidate in steps if step is None else [step]:
      restored = None
      try:
        restored = self._read(candidate, like)
      except MemoryError:
        raise
      # Orbax and TensorStore raise whatever the broken part makes them raise.
      except Exception as error:
        reason = str(error).strip().partition('\n')[0][:200]
        warnings.warn(
          f'skipping broken checkpoint {self._directory / str(candidate)}: {reason}', stacklevel=2
        )
      if processes.in_all(restored is not None):
        return restored
    if steps:
      raise CheckpointError(
        f'no checkpoint in {self._directory} can be read ({reason}); to start over give another '
        '--workdir.'
      )
    return None

  def wait(self) -> None:
    """Returns when what was saved is on disk."""
    self._manager.wait_until_finished()

  def set_aside_after(self, step: int) -> None:
    """Renames checkpoints newer than `step`, those skipped as broken, out of the way."""

    def set_aside() -> None:
      for newer in [s for s in self._manager.all_steps() if s > step]:
        aside = self._directory / f'{newer}.broken'
        # The step may have been broken before.
        shutil.rmtree(aside, ignore_errors=True)
        (self._directory / str(newer)).rename(aside)

    processes.by_first(set_aside)
    self._manager.reload()

  def close(self) -> None:
    """Waits for what is being saved and lets go."""
    self._manager.close()

  def _read(self, step: int, like: Any) -> Restored:
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    arguments = ocp.args.Composite(
      state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore()
    )
    with _quiet_coroutines():
      restored = self._manager.restore(step, args=arguments)
    meta = dict(restored['meta'])
    if meta.pop('digest') != _digest(restored['state']):
      raise CheckpointError('its arrays are not those that were saved')
    return Restored(step, restored['state'], meta)


class _Best(policies.PreservationPolicy):
  """Keeps the checkpoint evaluated best."""

  def __init__(self, top1: Mapping[int, float]):
    self._top1 = top1

  def should_preserve(self, checkpoints, *, context):
    """A flag per checkpoint."""
    del context
    best = _best([info.step for info in checkpoints], self._top1)
    return [info.step == best for info in checkpoints]


def _best(steps: Iterable[int], top1: Mapping[int, float]) -> int | None:
  return max((step for step in steps if step in top1), key=lambda step: top1[step], default=None)


def _digest(state: Any) -> int:
  """CRC-32 of all leaves, in tree order."""
  digest = 0
  for leaf in jax.tree.leaves(jax.device_get(state)):
    digest = zlib.crc32(np.asarray(leaf).tobytes(), digest)
  return digest


@contextlib.contextmanager
def _quiet_coroutines() -> Iterator[None]:
  """Keeps the coroutines that a failed restore leaves behind from printing a page each."""
  hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
  try:
    yield
  except Exception as error:
    # Frames in the traceback keep the coroutines alive past this block.
    error.__traceback__ = error.__context__ = error.__cause__ = None
    raise
  finally:
    gc.collect()
    sys.unraisablehook = hook
