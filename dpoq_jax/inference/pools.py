"""Where undecided inputs wait for the next path."""

import jax
import jax.numpy as jnp
import numpy as np

from dpoq_jax.inference import path_programs


class Pool:
  """Inputs that wait for a path, with what the paths below computed of them."""

  def __init__(self, capacity: int):
    self._capacity = capacity
    self.rows: path_programs.Rows | None = None
    self.clear()

  def clear(self) -> None:
    """Forgets the inputs; their room on the device is kept."""
    self.count, self.ids, self.run = 0, [], []

  def add(
    self, rows: path_programs.Rows, chosen: np.ndarray, ids: np.ndarray, run: list[np.ndarray]
  ) -> int:
    """Copies as many of the `chosen` rows as there is room for, in order; returns how many."""
    taken = min(len(chosen), self._capacity - self.count)
    if self.rows is None:
      self.rows = jax.tree.map(
        lambda leaf: jnp.zeros((self._capacity, *leaf.shape[1:]), leaf.dtype), rows
      )
    indices = np.zeros(len(rows.images), np.int32)
    indices[:taken] = chosen[:taken]
    self.rows = path_programs.copy_rows(
      self.rows, rows, indices, np.int32(taken), np.int32(self.count)
    )
    self.ids.append(ids[chosen[:taken]])
    self.run.append([each[chosen[:taken]] for each in run])
    self.count += taken
    return taken
