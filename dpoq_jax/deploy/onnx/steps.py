"""Reads a path as a list of steps off its trace: what its model file does between its layers.

Every model is traced with its layers (`ConvNorm`, `PACT`, the classifier) kept opaque. What is left
of the JAX program is the handful of operations by which a model file joins them, so an exporter is
written once, for these steps, and not once for each model.
"""

from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any, NamedTuple

import flax.errors
import flax.linen as nn
import jax
from jax.extend import core as jax_core
import jax.numpy as jnp
import numpy as np

from dpoq_jax.deploy.onnx import opaque_layers
from dpoq_jax.deploy.onnx.opaque_layers import UnsupportedStepError
from dpoq_jax.deploy.onnx.traced_values import Codes, PactScale, Pixels, Sum, Value
from dpoq_jax.network import onion_network


class Step(NamedTuple):
  """Describes one operation on tensors [batch, height, width, channels].

  Attributes:
    kind: `image` (pixels as they enter the first layer), `conv` (a `ConvNorm`, merge and
      normalisation included), `pact`, `add`, `slice`, `pad` (with zeros), `max_pool`, `mean` (over
      height and width) or `dense` (the classifier).
    inputs: numbers of the steps whose results it takes; steps are numbered in their order, from 0.
    shape: shape of its result, without the batch.
    name: name of the layer, `/` between modules; empty for a step that is no layer.
    options: options by kind. `image`: `factor` and `offset`, the result is `(pixel - offset) *
      factor`; `conv`: `strides`, `groups`; `pact`: `signed`; `slice`: `starts`, `limits`, `strides`
      of height, width, channels; `pad`: `low`, `high` of the same; `max_pool`: `window`, `strides`.
  """

  kind: str
  inputs: tuple[int, ...]
  shape: tuple[int, ...]
  name: str = ''
  options: dict[str, Any] = {}  # noqa: RUF012 (never written)


def trace(
  network: onion_network.Onion, index: int, image_shape: tuple[int, int, int]
) -> list[Step]:
  """Returns the steps of one path in an order to run them in; the last one gives the logits.

  Args:
    network: the network.
    index: the path, from 0.
    image_shape: (height, width, channels).

  Raises:
    UnsupportedStepError: for a model file that joins its layers in another way than these steps.
  """
  module = network.path(index)

  def run(images: jax.Array) -> Any:
    with nn.intercept_methods(opaque_layers.opaque):
      return module.apply({}, images)

  # Two images: with one, an axis of size 1 could be mistaken for a broadcast.
  images = jax.ShapeDtypeStruct((2, *image_shape), jnp.uint8)
  try:
    closed = jax.make_jaxpr(run)(images)
  except flax.errors.FlaxError as error:
    # A layer that is not kept opaque looks for its parameters, and there are none.
    raise UnsupportedStepError(
      'a model with parameters outside of ConvNorm, PACT and Dense cannot be exported '
      f'({str(error).partition(" (https:")[0]}).'
    ) from None
  program = _Program()
  (result,) = program.read(closed.jaxpr, closed.consts, [Pixels()])
  assert isinstance(result, int)
  return program.steps


class _Operation(NamedTuple):
  """Describes one operation of the traced program.

  Attributes:
    params: parameters of its primitive.
    inputs: values it takes; at least one of them depends on the images.
    shape: shape of its result, without the batch.
  """

  params: Mapping[str, Any]
  inputs: Sequence[Value]
  shape: tuple[int, ...]


class _Program:
  """Turns a traced program into steps.

  Attributes:
    steps: the steps read so far.
  """

  def __init__(self) -> None:
    self.steps: list[Step] = []
    self._images: dict[Pixels, int] = {}

  def read(
    self, jaxpr: jax_core.Jaxpr, consts: Sequence[Any], arguments: Sequence[Value]
  ) -> list[Value]:
    """Reads all operations of a program; returns the values of its results."""
    values: dict[Any, Value] = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
    values |= dict(zip(jaxpr.invars, arguments, strict=True))

    def value_of(variable: Any) -> Value:
      is_literal = isinstance(variable, jax_core.Literal)
      return np.asarray(variable.val) if is_literal else values[variable]

    for equation in jaxpr.eqns:
      inputs = [value_of(each) for each in equation.invars]
      values |= dict(zip(equation.outvars, self._results(equation, inputs), strict=True))
    return [value_of(each) for each in jaxpr.outvars]

  def add(
    self, kind: str, inputs: Sequence[int], shape: Sequence[int], name: str = '', **options: Any
  ) -> int:
    """Adds a step; returns its number."""
    self.steps.append(Step(kind, tuple(inputs), tuple(shape), name, options))
    return len(self.steps) - 1

  def image(self, pixels: Pixels) -> int:
    """Returns the number of the step of these pixels, which is added once."""
    if pixels not in self._images:
      self._images[pixels] = self.add('image', [], (), **pixels._asdict())
    return self._images[pixels]

  def _results(self, equation: Any, inputs: list[Value]) -> list[Value]:
    """Returns the values of an operation's results."""
    primitive, params = equation.primitive, equation.params
    for name in ('jaxpr', 'call_jaxpr'):
      if (inner := params.get(name)) is not None:
        return self.read(inner.jaxpr, inner.consts, inputs)
    if all(isinstance(each, np.ndarray) for each in inputs):
      results = primitive.bind(*map(jnp.asarray, inputs), **params)
      return [np.asarray(each) for each in (results if primitive.multiple_results else [results])]
    reader, codes = _READERS.get(primitive.name), None
    # What leaves values as they are, or picks some of them, does so with their codes.
    if isinstance(inputs[0], Codes) and primitive.name in _OF_CODES:
      codes, inputs = inputs[0], [inputs[0].step, *inputs[1:]]
    operation = _Operation(params, inputs, equation.outvars[0].aval.shape[1:])
    result = reader(self, operation) if reader else None
    if codes is not None and isinstance(result, int):
      result = codes._replace(step=result)
    if result is None and any(isinstance(each, Codes) for each in inputs):
      raise UnsupportedStepError(
        f'a model that takes the codes of a PACT without their scale, by {primitive.name}, cannot '
        'be exported: take its value.'
      )
    if result is None:
      raise UnsupportedStepError(
        f'a model that joins its layers by {primitive.name} cannot be exported.'
      )
    return [result]


def _number(value: Value) -> float | None:
  """Returns the number in an array of one; None for any other value."""
  return float(value.reshape(())) if isinstance(value, np.ndarray) and value.size == 1 else None


# Readers return the value of an operation's result, or None for what cannot be exported.


def _read_layer(program: _Program, operation: _Operation) -> Value | None:
  """Reads a layer that was kept opaque."""
  (x,), params = operation.inputs, operation.params
  x = program.image(x) if isinstance(x, Pixels) else x
  if not isinstance(x, int):
    return None
  options = dict(params['options'])
  return program.add(params['kind'], [x], operation.shape, params['name'], **options)


def _read_unchanged(program: _Program, operation: _Operation) -> Value | None:
  """Reads an operation that leaves the numbers of a step as they are."""
  del program
  (x,) = operation.inputs
  return x if isinstance(x, int) else None


def _read_convert(program: _Program, operation: _Operation) -> Value | None:
  """Reads a change of dtype, which leaves numbers as they are: those of pixels, too."""
  (x,) = operation.inputs
  if isinstance(x, Pixels):
    return x
  # Integers would be rounded.
  is_float = jnp.issubdtype(operation.params['new_dtype'], jnp.floating)
  return _read_unchanged(program, operation) if is_float else None


def _read_codes(program: _Program, operation: _Operation) -> Value | None:
  """Reads the codes that a PACT gives."""
  del program
  (x,) = operation.inputs
  return Codes(x, PactScale(x)) if isinstance(x, int) else None


def _read_scale(program: _Program, operation: _Operation) -> Value | None:
  """Reads the scale that a PACT gives."""
  del program
  (x,) = operation.inputs
  return PactScale(x) if isinstance(x, int) else None


def _read_broadcast(program: _Program, operation: _Operation) -> Value | None:
  """Reads a scale that is brought to the shape of the codes."""
  del program
  (x,) = operation.inputs
  return x if isinstance(x, PactScale) else None


def _read_mul(program: _Program, operation: _Operation) -> Value | None:
  """Reads a product of pixels and a number, of codes and their scale, or of a step and 1."""
  del program
  match operation.inputs:
    case [Codes(step, scale), PactScale() as factor] if factor == scale:
      return step
    case _:
      pass
  x, factor = operation.inputs[0], _number(operation.inputs[1])
  if factor is not None and isinstance(x, Pixels):
    return x._replace(factor=x.factor * factor)
  return x if factor == 1 and isinstance(x, int) else None


def _read_sub(program: _Program, operation: _Operation) -> Value | None:
  """Reads a difference of pixels and a number."""
  del program
  x, constant = operation.inputs[0], _number(operation.inputs[1])
  if constant is None or not isinstance(x, Pixels):
    return None
  return x._replace(offset=x.offset + constant / x.factor)


def _read_sum(program: _Program, operation: _Operation) -> Value | None:
  """Reads a sum over height and width, the first half of a mean."""
  del program
  (x,) = operation.inputs
  return Sum(x) if isinstance(x, int) and tuple(operation.params['axes']) == (1, 2) else None


def _read_div(program: _Program, operation: _Operation) -> Value | None:
  """Reads the division of a sum by the number of its terms, which makes it a mean."""
  x, divisor = operation.inputs[0], _number(operation.inputs[1])
  if not isinstance(x, Sum) or divisor != math.prod(program.steps[x.step].shape[:2]):
    return None
  return program.add('mean', [x.step], operation.shape)


def _read_add(program: _Program, operation: _Operation) -> Value | None:
  """Reads a sum of two steps."""
  x, y = operation.inputs
  if not isinstance(x, int) or not isinstance(y, int):
    return None
  return program.add('add', [x, y], operation.shape)


def _read_pad(program: _Program, operation: _Operation) -> Value | None:
  """Reads padding with zeros, at the ends of all axes but the batch."""
  x, value = operation.inputs[0], _number(operation.inputs[1])
  config = operation.params['padding_config']
  if not isinstance(x, int) or value != 0 or any(within for _, _, within in config):
    return None
  low, high = (tuple(int(axis[end]) for axis in config[1:]) for end in (0, 1))
  if min(low) < 0 or min(high) < 0 or config[0] != (0, 0, 0):
    return None
  if not any(low + high):
    return x
  return program.add('pad', [x], operation.shape, low=low, high=high)


def _read_slice(program: _Program, operation: _Operation) -> Value | None:
  """Reads a slice of all axes but the batch, with strides."""
  (x,), params = operation.inputs, operation.params
  if not isinstance(x, int):
    return None
  starts, limits = params['start_indices'][1:], params['limit_indices'][1:]
  strides = (params['strides'] or (1, 1, 1, 1))[1:]
  is_whole = starts == (0, 0, 0) and strides == (1, 1, 1)
  if is_whole and operation.shape == program.steps[x].shape:
    return x
  return program.add('slice', [x], operation.shape, starts=starts, limits=limits, strides=strides)


def _read_max_pool(program: _Program, operation: _Operation) -> Value | None:
  """Reads a maximum over windows of height and width, without padding or dilation."""
  (x,), params = operation.inputs, operation.params
  window, strides = params['window_dimensions'], params['window_strides']
  dilations = (*params['base_dilation'], *params['window_dilation'])
  within_maps = window[0] == window[3] == strides[0] == strides[3] == 1
  plain = within_maps and set(dilations) == {1} and not any(sum(params['padding'], ()))
  if not isinstance(x, int) or not plain:
    return None
  return program.add('max_pool', [x], operation.shape, window=window[1:3], strides=strides[1:3])


_READERS: dict[str, Callable[[_Program, _Operation], Value | None]] = {
  'add': _read_add,
  'add_any': _read_add,
  'broadcast_in_dim': _read_broadcast,
  'convert_element_type': _read_convert,
  'copy': _read_unchanged,
  'div': _read_div,
  'dpoq_codes': _read_codes,
  'dpoq_layer': _read_layer,
  'dpoq_scale': _read_scale,
  'mul': _read_mul,
  'pad': _read_pad,
  'reduce_sum': _read_sum,
  'reduce_window_max': _read_max_pool,
  'slice': _read_slice,
  'stop_gradient': _read_unchanged,
  'sub': _read_sub,
}
"""Readers of the operations that can be exported, by the name of the primitive."""

_OF_CODES = {'convert_element_type', 'copy', 'pad', 'reduce_window_max', 'slice', 'stop_gradient'}
"""Those that take codes as they take values."""
