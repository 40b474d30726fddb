"""Checks the model of a path while it is traced: what the type of a Linen module does not say."""

from collections.abc import Callable, Generator, Mapping
import contextlib
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp

from dpoq_jax.core import layers, normalisation
from dpoq_jax.core.names import LOGIT_SCALE
from dpoq_jax.network import trees

Place = tuple[str, ...]
"""Path of a module or a parameter."""


@contextlib.contextmanager
def said_in_a_line(model: nn.Module) -> Generator[None]:
  """Turns what Flax refuses, as random layers and other collections, into a `ValueError`."""
  try:
    yield
  except flax.errors.FlaxError as error:
    reason = str(error).partition(' (https:')[0].rstrip('.')
    raise ValueError(
      f'{type(model).__name__} cannot be a path: {reason}. Paths keep parameters and the '
      'statistics of ConvNorm, and draw nothing at random.'
    ) from error


@contextlib.contextmanager
def called_once() -> Generator[set[Place]]:
  """Refuses layers that are called twice; yields the set that the paths of convolutions go into.

  What a layer hands up would be overwritten, and higher paths would read the wrong features.
  """
  convolutions: set[Place] = set()
  normalised: set[Place] = set()

  def note(module: nn.Module, *_: Any, **__: Any) -> None:
    if isinstance(module, layers.OnionConv):
      convolutions.add(module.path)
    if isinstance(module, normalisation.NORMALISATIONS):
      if module.path in normalised:
        raise ValueError(
          f'{"/".join(module.path[:-1])} is called twice: what it hands up would be overwritten. '
          'Give each ConvNorm a name of its own.'
        )
      normalised.add(module.path)

  with _before_calls(note):
    yield convolutions


def normalised_alike(train: bool) -> contextlib.AbstractContextManager[None]:
  """Refuses layers that are told other than `train`, which the model was.

  They would normalise by statistics that nobody updates in training, or in evaluation by those of
  whatever images are beside one another.
  """

  def check(module: nn.Module, *args: Any, **kwargs: Any) -> None:
    if isinstance(module, normalisation.NORMALISATIONS):
      told = kwargs['train'] if 'train' in kwargs else args[-1]
      if told != train:
        raise ValueError(
          f'{"/".join(module.path[:-1])} is told train={told} where the model is told {train}: '
          'pass on what it is given.'
        )

  return _before_calls(check)


def _before_calls(act: Callable[..., None]) -> contextlib.AbstractContextManager[None]:
  """Calls `act` before each call of a layer, with the layer and the arguments."""

  def intercept(
    call: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    context: nn.module.InterceptorContext,
  ) -> Any:
    if context.method_name == '__call__':
      act(context.module, *args, **kwargs)
    return call(*args, **kwargs)

  return nn.intercept_methods(intercept)


def check_logits(model: nn.Module, logits: Any, count: int) -> None:
  """Raises a ValueError unless a model returns logits.

  Args:
    model: model of a path.
    logits: what it returned.
    count: number of images that it was given.
  """
  classes = getattr(model, 'num_classes', None)
  if isinstance(logits, jax.Array) and jnp.issubdtype(logits.dtype, jnp.floating):
    if logits.ndim == 2 and len(logits) == count and classes in {None, logits.shape[1]}:
      return
    returned = f'floats {list(logits.shape)}'
  else:
    returned = type(logits).__name__
  wanted = 'num_classes' if classes is None else classes
  raise ValueError(
    f'{type(model).__name__} returns {returned} of {count} images: it has to return logits, floats '
    f'[{count}, {wanted}].'
  )


def check_names(
  model: nn.Module, params: Mapping[str, Any], convolutions: set[Place], sum_logits: bool
) -> None:
  """Raises a ValueError for names that mean something else where variables are kept.

  Args:
    model: model of a path.
    params: its parameters.
    convolutions: paths of its quantized convolutions.
    sum_logits: whether the network adds a parameter of its own to each path.
  """
  name = type(model).__name__
  for place in trees.flatten(params):
    if any('/' in part for part in place):
      raise ValueError(f'{name} has a layer {place}: a name must not have a / in it.')
    if place[-1] == 'latent' and place[:-1] not in convolutions:
      raise ValueError(
        f'{name} has a parameter {"/".join(place)} of its own: latent is the name of what is '
        'quantized; give it another.'
      )
  if sum_logits and LOGIT_SCALE in params:
    raise ValueError(f'{name} has a layer {LOGIT_SCALE}, which is the name of a parameter here.')


def check_alike(lowest: Mapping[str, Any], own: Mapping[str, Any], precision: int) -> None:
  """Raises a ValueError unless a path has the kernels of the lowest, which share integers.

  Args:
    lowest: parameters of the lowest path.
    own: those of the path.
    precision: bits of the path.
  """
  one, other = (
    {(place, leaf.shape) for place, leaf in trees.flatten(params).items() if place[-1] == 'latent'}
    for params in (lowest, own)
  )
  if one != other:
    place, shape = min(one ^ other)
    raise ValueError(
      f'the kernel {list(shape)} of {"/".join(place[:-2])} is in one of two paths, of '
      f'{precision} bits and the lowest: paths have to be alike.'
    )
