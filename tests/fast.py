"""Compiles what a test runs once or twice, where compiling takes longer than running."""

from collections.abc import Callable, Iterator
import contextlib
import functools
from typing import Any

import jax

from dpoq_jax.runtime import compiler

# Without the emitters of fusions, compiling gradients takes half as long.
_WANTED = {'xla_backend_optimization_level': 0, 'xla_cpu_use_fusion_emitters': False}


@functools.cache
def _options() -> dict[str, Any]:
  return {name: value for name, value in _WANTED.items() if compiler.is_known(name, value)}


def jit(function: Callable[..., Any], **arguments: Any) -> Any:
  """Returns what `jax.jit` does, compiled fast rather than to something fast."""
  return jax.jit(function, compiler_options=_options(), **arguments)


@contextlib.contextmanager
def compiling() -> Iterator[None]:
  """Compiles fast whatever is compiled in this process meanwhile, by whom it may be."""
  before = jax.config.read('jax_disable_most_optimizations')
  jax.config.update('jax_disable_most_optimizations', True)
  try:
    yield
  finally:
    jax.config.update('jax_disable_most_optimizations', before)
