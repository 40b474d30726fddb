"""Chooses the settings of XLA that this library changes, each with its reason.

All other settings are XLA's own. A setting that the user names in XLA_FLAGS is left to the user,
and one that the installed XLA does not know is left out. What a candidate gains is measured by
`python -m benchmarks.train_step --compiler-options=NAME=VALUE`. None is set for GPUs: none has been
measured there yet.
"""

from collections.abc import Callable, Mapping
import functools
import os
from typing import Any

import jax
from jax import core
import jax.numpy as jnp

_RUN_OFTEN: dict[str, dict[str, Any]] = {
  # XLA hands convolutions to YNNPACK by default. On two cores of an Intel Xeon XLA's own are faster
  # for CIFAR ResNets: 1.4 to 1.7 times forward, 1.8 to 3 for gradients of kernels; a training step
  # 1.3 to 1.4 times. Reductions and matrix products stay with YNNPACK, where they are faster.
  'cpu': {
    'xla_cpu_experimental_ynn_fusion_type': (
      'LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'
    )
  },
}
# A program that runs once should be compiled fast: ResNet-20 in 5 s instead of 12.
_RUN_ONCE: dict[str, dict[str, Any]] = {'cpu': {'xla_backend_optimization_level': 0}}


def options(platform: str | None = None) -> dict[str, Any]:
  """Returns `compiler_options` of `jax.jit` for programs that run often.

  Args:
    platform: `cpu`, `gpu` or `tpu`; None is JAX's default, which starts its backend.
  """
  return _usable(_RUN_OFTEN.get(platform or jax.default_backend(), {}))


def once_options(platform: str | None = None) -> dict[str, Any]:
  """Returns `compiler_options` of `jax.jit` for programs that run once or twice; see `options`."""
  return _usable(_RUN_ONCE.get(platform or jax.default_backend(), {}))


@functools.cache
def is_known(name: str, value: Any) -> bool:
  """Tells whether the installed XLA has this setting and accepts this value for it."""
  try:
    jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
  except jax.errors.JaxRuntimeError:
    return False
  return True


class Jitted:
  """Compiles a function of a module as `jax.jit` does, with `options` or `once_options`.

  The options are looked up at the first call, since importing a module must not start JAX's
  backend. Inside another `jit` the function becomes a part of that program, whose options hold.
  """

  def __init__(
    self, function: Callable[..., Any], *, runs_once: bool = False, **arguments: Any
  ) -> None:
    """Takes the function, whether it runs once or often, and the arguments of `jax.jit`."""
    self._function, self._arguments = function, arguments
    self._options = once_options if runs_once else options
    functools.update_wrapper(self, function)

  @functools.cached_property
  def jitted(self) -> Any:
    """Returns the result of `jax.jit`."""
    return jax.jit(self._function, compiler_options=self._options(), **self._arguments)

  def __call__(self, *arguments: Any) -> Any:
    """Runs the compiled function."""
    # While `jit` traces, whatever is made becomes a part of its program.
    if isinstance(jnp.zeros(()), core.Tracer):
      return self._function(*arguments)
    return self.jitted(*arguments)


def _usable(wanted: Mapping[str, Any]) -> dict[str, Any]:
  given = os.environ.get('XLA_FLAGS', '')
  return {
    name: value for name, value in wanted.items() if name not in given and is_known(name, value)
  }
