"""A path as a list of steps: what its model file does between its layers, read off a trace.

Every model is traced with its layers (`ConvNorm`, `PACT`, the classifier) kept opaque; what is left
of the JAX program is the handful of operations by which a model file joins them. So an exporter is
written once, for these steps, and not once for each model.
"""

import math
from typing import Any, NamedTuple

import flax.errors
import flax.linen as nn
import jax
from jax.core import ShapedArray
from jax.extend import core as jax_core
import jax.numpy as jnp
import numpy as np

from dpoq_jax.core import layers
from dpoq_jax.core.quantizers import Activation
from dpoq_jax.network import onion_network


class Step(NamedTuple):
  """One operation on tensors [batch, height, width, channels], numbered as they come.

  Attributes:
    kind: `image` (pixels as they enter the first layer), `conv` (a `ConvNorm`, merge and
      normalisation included), `pact`, `add`, `slice`, `pad` (with zeros), `max_pool`, `mean` (over
      height and width) or `dense` (the classifier).
    inputs: numbers of the steps whose results it takes.
    shape: of its result, without the batch.
    name: of the layer, `/` between modules; empty if it is none.
    options: by kind. `image`: `factor` and `offset`, it is `(pixel - offset) * factor`; `conv`:
      `strides`, `groups`; `pact`: `signed`; `slice`: `starts`, `limits`, `strides` of height,
      width, channels; `pad`: `low`, `high` of the same; `max_pool`: `window`, `strides`.
  """

  kind: str
  inputs: tuple[int, ...]
  shape: tuple[int, ...]
  name: str = ''
  options: dict[str, Any] = {}  # noqa: RUF012 (never written)


class UnsupportedStepError(ValueError):
  """A model file does something between its layers that cannot be exported."""


_LAYER = jax_core.Primitive('dpoq_layer')


@_LAYER.def_abstract_eval
def _layer_shape(x, *, shape, **_):
  return ShapedArray(shape, x.dtype)


def trace(
  network: onion_network.Onion, index: int, image_shape: tuple[int, int, int]
) -> list[Step]:
  """The steps of one path in an order in which they can be run; the last one gives the logits.

  Args:
    network: the network.
    index: the path, from 0.
    image_shape: height, width, channels.

  Raises:
    UnsupportedStepError: for a model file that joins its layers in another way than these steps.
  """
  module = network.path(index)

  def run(images):
    with nn.intercept_methods(_opaque):
      return module.apply({}, images)

  # Two images, so that no size 1 is taken for a broadcast.
  images = jax.ShapeDtypeStruct((2, *image_shape), jnp.uint8)
  try:
    closed = jax.make_jaxpr(run)(images)
  except flax.errors.FlaxError as error:
    # A layer that is none of the opaque ones looks for its parameters in vain.
    raise UnsupportedStepError(
      'a model with parameters outside of ConvNorm, PACT and Dense cannot be exported '
      f'({str(error).partition(" (https:")[0]}).'
    ) from None
  reader = _Reader()
  (result,) = reader.read(closed.jaxpr, closed.consts, [_Pixels()])
  assert isinstance(result, int)
  return reader.steps


def _opaque(next_call, args, kwargs, context):
  """In place of a layer's own computation, one primitive that says which layer it is."""
  module = context.module
  if context.method_name != '__call__':
    return next_call(*args, **kwargs)
  name = '/'.join(module.path)
  match module:
    case layers.ConvNorm():
      x = args[0].value
      size = [
        # As `quantizers.convolve` pads: by half the kernel.
        (n + (k - 1) // 2 + k // 2 - k) // s + 1
        for n, k, s in zip(x.shape[1:3], module.kernel_size, module.strides, strict=True)
      ]
      shape = (x.shape[0], *size, module.features)
      options = (('strides', module.strides), ('groups', module.groups))
      return _LAYER.bind(x, kind='conv', shape=shape, name=name, options=options)
    case layers.PACT():
      (x,) = args
      options = (('signed', module.signed),)
      y = _LAYER.bind(x, kind='pact', shape=x.shape, name=name, options=options)
      # In value units: codes and values differ by a scale that the exporter chooses.
      return Activation(y, jnp.ones((), y.dtype))
    case nn.Dense():
      (x,) = args
      shape = (x.shape[0], module.features)
      return _LAYER.bind(x, kind='dense', shape=shape, name=name, options=())
  return next_call(*args, **kwargs)


class _Pixels(NamedTuple):
  """`(pixel - offset) * factor`, as long as no layer has taken them."""

  factor: float = 1.0
  offset: float = 0.0


class _Sum(NamedTuple):
  """The sum of a step's result over height and width."""

  step: int


class _Reader:
  """Turns a traced program into steps.

  A value is the number of a step, a NumPy array that does not depend on the images, or one of the
  two above.
  """

  def __init__(self):
    self.steps: list[Step] = []
    self._image: dict[_Pixels, int] = {}

  def read(self, jaxpr, consts, arguments) -> list[Any]:
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
    values |= dict(zip(jaxpr.invars, arguments, strict=True))

    def value_of(variable):
      is_literal = isinstance(variable, jax_core.Literal)
      return np.asarray(variable.val) if is_literal else values[variable]

    for equation in jaxpr.eqns:
      inputs = [value_of(each) for each in equation.invars]
      values |= dict(zip(equation.outvars, self._apply(equation, inputs), strict=True))
    return [value_of(each) for each in jaxpr.outvars]

  def _apply(self, equation, inputs: list[Any]) -> list[Any]:
    primitive, params = equation.primitive, equation.params
    for name in ('jaxpr', 'call_jaxpr'):
      if (inner := params.get(name)) is not None:
        return self.read(inner.jaxpr, inner.consts, inputs)
    if all(isinstance(each, np.ndarray) for each in inputs):
      results = primitive.bind(*map(jnp.asarray, inputs), **params)
      return [np.asarray(each) for each in (results if primitive.multiple_results else [results])]
    result = self._step(primitive.name, params, inputs, equation.outvars[0].aval.shape[1:])
    if result is None:
      raise UnsupportedStepError(
        f'a model that joins its layers by {primitive.name} cannot be exported.'
      )
    return [result]

  def _step(self, name: str, params: dict[str, Any], inputs: list[Any], shape) -> Any:
    """The value of an operation, or None for one that is not known."""
    x, other = inputs[0], inputs[1] if len(inputs) > 1 else None
    if isinstance(other, np.ndarray) and other.size == 1:
      constant = float(other.reshape(()))
      match name, x:
        case 'mul', int() if constant == 1:
          return x
        case 'mul', _Pixels():
          return x._replace(factor=x.factor * constant)
        case 'sub', _Pixels():
          return x._replace(offset=x.offset + constant / x.factor)
        case 'div', _Sum() if constant == math.prod(self.steps[x.step].shape[:2]):
          return self._add('mean', [x.step], shape)
        case 'pad', int() if constant == 0 and all(c == 0 for _, _, c in params['padding_config']):
          low, high = (tuple(int(each[k]) for each in params['padding_config'][1:]) for k in (0, 1))
          if min(low) < 0 or min(high) < 0 or params['padding_config'][0] != (0, 0, 0):
            return None
          if not any(low + high):
            return x
          return self._add('pad', [x], shape, low=low, high=high)
      return None
    match name, x:
      case 'convert_element_type', _Pixels():
        return x
      case 'convert_element_type' | 'stop_gradient' | 'copy', int():
        return x
      case 'dpoq_layer', _:
        options = dict(params['options'])
        if isinstance(x, _Pixels):
          x = self._pixels(x)
        return self._add(params['kind'], [x], shape, params['name'], **options)
      case 'add' | 'add_any', int() if isinstance(other, int):
        return self._add('add', [x, other], shape)
      case 'slice', int():
        strides = params['strides'] or (1, 1, 1, 1)
        options = (params['start_indices'][1:], params['limit_indices'][1:], strides[1:])
        if (options[0], options[2]) == ((0, 0, 0), (1, 1, 1)) and shape == self.steps[x].shape:
          return x
        named = dict(zip(('starts', 'limits', 'strides'), options, strict=True))
        return self._add('slice', [x], shape, **named)
      case 'reduce_window_max', int():
        window, strides = params['window_dimensions'], params['window_strides']
        plain = window[0] == window[3] == strides[0] == strides[3] == 1
        dilations = (*params['base_dilation'], *params['window_dilation'])
        if not plain or any(sum(params['padding'], ())) or set(dilations) != {1}:
          return None
        return self._add('max_pool', [x], shape, window=window[1:3], strides=strides[1:3])
      case 'reduce_sum', int() if tuple(params['axes']) == (1, 2):
        return _Sum(x)
    return None

  def _pixels(self, pixels: _Pixels) -> int:
    if pixels not in self._image:
      self._image[pixels] = self._add('image', [], (), factor=pixels.factor, offset=pixels.offset)
    return self._image[pixels]

  def _add(self, kind: str, inputs: list[int], shape, name: str = '', **options: Any) -> int:
    self.steps.append(Step(kind, tuple(inputs), tuple(shape), name, options))
    return len(self.steps) - 1
