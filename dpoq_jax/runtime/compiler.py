"""Settings of XLA that this library changes, each with its reason; all others are XLA's own.

What a user says of the same setting in XLA_FLAGS has the last word. A setting that the installed
XLA does not know is left out. What a candidate is worth is measured by
`python -m benchmarks.train_step --compiler_options=NAME=VALUE`; on a GPU none has been yet.
"""

from collections.abc import Callable, Mapping
import functools
import os
from typing import Any

import jax

_OFTEN: dict[str, dict[str, Any]] = {
  # XLA hands convolutions to YNNPACK by default. On two cores of an Intel Xeon the ones of CIFAR
  # ResNets are faster without: 1.4 to 1.7 times forward, 1.8 to 3 for gradients of kernels; a
  # training step 1.3 to 1.4 times. Reductions and matrix products are left where they are faster.
  'cpu': {
    'xla_cpu_experimental_ynn_fusion_type': (
      'LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'
    )
  },
}
# Compiling it fast matters more than what it compiles to: of ResNet-20, 5 s in place of 12.
_ONCE: dict[str, dict[str, Any]] = {'cpu': {'xla_backend_optimization_level': 0}}


def options(platform: str | None = None) -> dict[str, Any]:
  """Of programs that run often, for `compiler_options` of `jax.jit`.

  Args:
    platform: `cpu`, `gpu` or `tpu`; None is JAX's default, which starts its backend.
  """
  return _usable(_OFTEN.get(platform or jax.default_backend(), {}))


def once_options(platform: str | None = None) -> dict[str, Any]:
  """Of programs that run once or twice; see `options`."""
  return _usable(_ONCE.get(platform or jax.default_backend(), {}))


def _usable(wanted: Mapping[str, Any]) -> dict[str, Any]:
  said = os.environ.get('XLA_FLAGS', '')
  return {name: value for name, value in wanted.items() if name not in said and known(name, value)}


@functools.cache
def known(name: str, value: Any) -> bool:
  """Whether the installed XLA has this setting and this value of it."""
  try:
    jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
  except jax.errors.JaxRuntimeError:
    return False
  return True


class Jitted:
  """`jax.jit` with `options`, for functions of modules; not to be called under another `jit`.

  They are looked up at the first call: JAX's backend must not start when a module is imported.
  """

  def __init__(self, function: Callable[..., Any], **arguments: Any):
    """Takes the arguments of `jax.jit`."""
    self._function, self._arguments = function, arguments
    functools.update_wrapper(self, function)

  @functools.cached_property
  def jitted(self) -> Any:
    """What `jax.jit` gives."""
    return jax.jit(self._function, compiler_options=options(), **self._arguments)

  def __call__(self, *arguments: Any) -> Any:
    """Runs it."""
    return self.jitted(*arguments)
