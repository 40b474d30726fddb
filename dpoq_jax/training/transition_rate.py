"""Steers how many quantized weights change their code in a step, in place of how far latents move.

A latent matters only through its code, and how many codes a learning rate changes depends on where
the latents lie, which training moves. So the share of weights that change their code follows a
schedule, and each ring's rate is what that takes (Lee, Jeon, Kim, Ham: Scheduling Weight
Transitions for Quantization-Aware Training, ICCV 2025, arXiv:2404.19248). The controller is ours:
it acts on the rate's logarithm, so that its gain needs no units, where the paper adds to the rate;
and wider rings change in proportion to how close their levels lie, as they do at one rate for all.
"""

from collections.abc import Callable, Mapping
import math
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax

from dpoq_jax import onion
from dpoq_jax.core import quantizers
from dpoq_jax.network.from_config import Ring

# Part of the old value in the running share of transitions, and the largest change of a rate's
# logarithm in a step: a rate that is far off is corrected by a factor of e within 20 steps.
_MOMENTUM = 0.9
_GAIN = 0.05
# Factors of the first rate that a rate stays within, either way.
_RANGE = 1e3


class TransitionRateState(NamedTuple):
  """Holds the state of the controllers.

  Attributes:
    step: steps taken, int32.
    log_rate: logarithm of each ring's rate, `{path_B: scalar}`.
    share: running share of each ring's weights that changed their code, `{path_B: scalar}`.
  """

  step: jax.Array
  log_rate: dict[str, jax.Array]
  share: dict[str, jax.Array]


def check_target(of_two_bits: float, rings: Mapping[str, Ring]) -> None:
  """Checks that no ring would have to change the codes of all its weights in a step.

  Args:
    of_two_bits: share of a 2-bit ring's weights that are to change their code.
    rings: rings by the name of their path.

  Raises:
    ValueError: if one would, since its levels lie so close: no rate reaches that, so its rate would
      rise to the highest that it may have.
  """
  widest = max((ring.width for ring in rings.values()), default=1)
  most = _spacing(widest) / _spacing(2)
  if of_two_bits >= most:
    raise ValueError(
      f'optimizer.transition_rate={of_two_bits} would change the codes of all weights of a ring of '
      f'{widest} bits in a step: give less than {most:.2g}.'
    )


def scale_by_transition_rate(
  target: optax.Schedule, rings: Mapping[str, Ring], first_rate: float
) -> optax.GradientTransformation:
  """Returns a descent step whose rate lets a target share of each ring's weights change their code.

  Args:
    target: share of a 2-bit ring's weights that are to change their code, in [0, 1], as a function
      of the step.
    rings: rings by the name of their path.
    first_rate: rate that all rings start with.

  Returns:
    A transformation of trees `{path_B: {..., latent}}`, of latents alone.
  """
  low, high = math.log(first_rate / _RANGE), math.log(first_rate * _RANGE)

  def init(params: optax.Params) -> TransitionRateState:
    del params
    return TransitionRateState(
      step=jnp.zeros((), jnp.int32),
      log_rate={name: jnp.full((), math.log(first_rate), jnp.float32) for name in rings},
      share={name: jnp.zeros((), jnp.float32) for name in rings},
    )

  def update(
    updates: optax.Updates, state: Any, params: optax.Params | None = None
  ) -> tuple[optax.Updates, Any]:
    latents: Any = params
    scaled: dict[str, Any] = {**cast(Any, updates)}
    log_rate: dict[str, jax.Array] = {}
    share: dict[str, jax.Array] = {}
    of_two_bits = jnp.asarray(target(state.step), jnp.float32)
    steps = (state.step + 1).astype(jnp.float32)
    for name, ring in rings.items():
      wanted = of_two_bits * (_spacing(2) / _spacing(ring.width))
      rate = jnp.exp(state.log_rate[name])
      scaled[name] = optax.tree.scale(-rate, scaled[name])
      found = _transitions(latents[name], scaled[name], ring.quantize)
      share[name] = _MOMENTUM * state.share[name] + (1 - _MOMENTUM) * found
      # It starts at 0: uncorrected, the first steps would raise a rate that is right.
      running = optax.tree.bias_correction(share[name], _MOMENTUM, steps)
      # Between -1 and 1, and 0 where the share is the wanted one.
      error = (wanted - running) / jnp.maximum(wanted + running, 1e-12)
      log_rate[name] = jnp.clip(state.log_rate[name] + _GAIN * error, low, high)
    return scaled, TransitionRateState(state.step + 1, log_rate, share)

  return optax.GradientTransformation(init, update)


def _transitions(
  latents: Any, updates: Any, quantize: Callable[[jax.Array], jax.Array]
) -> jax.Array:
  """Returns the share of a ring's weights whose code these updates change."""
  changed, size = jnp.zeros((), jnp.float32), 0
  for latent, step in zip(jax.tree.leaves(latents), jax.tree.leaves(updates), strict=True):
    changed += jnp.sum(quantize(latent) != quantize(latent + step), dtype=jnp.float32)
    size += latent.size
  return changed / size


def _spacing(width: int) -> float:
  """Returns the distance of two levels, in deviations, that quantizes a normal best."""
  return 2 * quantizers.least_error_clip(width) / onion.max_code(width)
