"""Runs K ordinary networks (paths) from low to high, each handing its features up: the onion.

Cutting to k precisions is running the first k paths; upgrading an input is running one more path
with the laterals kept; a gradient mode is a scale at the hand-over.
"""

from collections.abc import Iterator, Sequence
import dataclasses
from typing import Any, cast

from flax import traverse_util
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from dpoq_jax import onion
from dpoq_jax.core import quantizers
from dpoq_jax.core.names import (
  LOGIT_SCALE,
  ONION,
  lateral_collection,
  path_name,
  statistics_collection,
)
from dpoq_jax.core.spec import LayerOptions, PathSpec
from dpoq_jax.network import checks, fresh, model_checks, trees
from dpoq_jax.network.gradient_scale import GradientScale, whole_gradient
from dpoq_jax.network.trainable import Laterals, PathOutput, Variables


@dataclasses.dataclass(frozen=True)
class Onion:
  """Runs one network at several precisions.

      network = Onion(CifarResNet(depth=20), bits=(2, 4, 8))
      variables = network.init(jax.random.key(0), images)
      logits = network.apply(variables, images)  # [3, batch, 10]

  Variables of a network with `bits=(2, 4)`:

      params:         {path_2: {...}, path_4: {...}}   latents, gamma, beta, clips, heads
      psbn_2, psbn_4: running mean and variance
      onion:          {layer: {kernel: uint16}}        replaces all latents once frozen

  Attributes:
    model: the Linen module of one path, with an attribute `spec` that each path sets for itself;
      the module maps (images, train) to logits.
    bits: increasing bit list. `(b,)` is the individual b-bit network, `(32,)` the float one.
    activation_bits: bits of the activations, one number or a tuple of one for each path; 32 is a
      plain ReLU.
    options: the choices that all paths and layers share.
    sum_logits: whether a path adds to its logits those of the path below, times a learned scale.

  Raises:
    TypeError: for a model that is no instance of a Linen module with an attribute `spec`.
    ValueError: for a bad bit list, activation bits that are not one for each path, a ring or
      activation wider than 16 bits (32, float, apart), or one that the compute dtype would round
      (wider than 8 bits in bfloat16).
  """

  model: nn.Module
  bits: tuple[int, ...]
  activation_bits: int | tuple[int, ...] = 8
  options: LayerOptions = LayerOptions()
  sum_logits: bool = False

  def __post_init__(self) -> None:
    checks.check_model(self.model)
    object.__setattr__(self, 'bits', onion.check_bits(self.bits))
    if not isinstance(self.activation_bits, int):
      object.__setattr__(self, 'activation_bits', self.activation_widths)
    checks.check_widths(self.bits, self.activation_bits, self.options.compute_dtype)

  def lowest(self, count: int) -> 'Onion':
    """Returns the network of the lowest `count` paths alone."""
    widths = self.activation_bits
    kept = widths if isinstance(widths, int) else widths[:count]
    return dataclasses.replace(self, bits=self.bits[:count], activation_bits=kept)

  @property
  def activation_widths(self) -> tuple[int, ...]:
    """Returns the activation bits of every path."""
    return onion.activation_widths(self.activation_bits, self.bits)

  def path(self, index: int) -> nn.Module:
    """Returns the Linen module of path `index`, from 0."""
    spec = PathSpec(self.bits, index, self.activation_widths[index], self.options)
    return self.model.clone(spec=spec)

  def init(self, key: jax.Array, images: jax.Array) -> dict[str, Any]:
    """Returns fresh variables.

    Args:
      key: a PRNG key; path k uses `fold_in(key, k)`, so lower paths do not depend on higher ones.
      images: uint8 [batch, height, width, channels]; only the shape matters.

    Raises:
      ValueError: for several paths that would hand nothing up.
    """
    return fresh.variables(self, key, images)

  def run_path(
    self,
    variables: Variables,
    index: int,
    images: jax.Array,
    laterals: Laterals | None = None,
    *,
    train: bool = False,
  ) -> PathOutput:
    """Runs one path, reusing what the paths below it computed.

    Args:
      variables: trained or frozen.
      index: the path, from 0.
      images: uint8 [batch, height, width, channels].
      laterals: `PathOutput.laterals` of all lower paths on these images, merged into one mapping.
      train: whether to normalise by the batch's statistics and update the running averages.

    Raises:
      ValueError: if the laterals of a lower path are missing.
    """
    precision = self.bits[index]
    statistics, handed_up = statistics_collection(precision), lateral_collection(precision)
    laterals = laterals or {}
    if missing := set(map(lateral_collection, self.bits[:index])) - set(laterals):
      raise ValueError(f'path {index} ({precision} bits) reads {sorted(missing)}: run those first.')
    own = self.variables_of_path(variables, index)
    collections = {**laterals, **own, 'params': own['params'][path_name(precision)]}
    # The highest path hands up, too: compiled without, XLA would fuse it otherwise than where there
    # are paths above it, and its last bits would depend on those.
    written = [handed_up] + [statistics] * train
    with model_checks.said_in_a_line(self.model), model_checks.normalised_alike(train):
      logits, updated = self.path(index).apply(collections, images, train, mutable=written)
    updates = cast('dict[str, Any]', updated)
    features = {**updates.get(handed_up, {})}
    logits = self.summed(logits, collections['params'], index, laterals)
    if self.sum_logits:
      features['logits'] = logits
    return PathOutput(
      logits,
      {handed_up: features},
      {statistics: updates.get(statistics, variables[statistics])},
    )

  def summed(self, logits: jax.Array, own: Variables, index: int, laterals: Laterals) -> jax.Array:
    """Adds those of the path below to the logits of path `index`, if the network sums logits."""
    if not self.sum_logits or index == 0:
      return logits
    below = laterals[lateral_collection(self.bits[index - 1])]['logits']
    return logits + own[LOGIT_SCALE] * below

  def variables_of_path(self, variables: Variables, index: int) -> dict[str, Any]:
    """Returns what path `index` reads of `variables`: its own subtrees, and the shared integers."""
    name, statistics = path_name(self.bits[index]), statistics_collection(self.bits[index])
    own = {'params': {name: variables['params'][name]}, statistics: variables[statistics]}
    return own | ({ONION: variables[ONION]} if ONION in variables else {})

  def apply(
    self,
    variables: Variables,
    images: jax.Array,
    train: bool = False,
    precisions: Sequence[int] | None = None,
  ) -> jax.Array:
    """Returns the logits of the precisions asked for, [precisions, batch, num_classes].

    Paths read nothing from above, so the precisions asked for do not change one another's logits.
    Under one `jit` XLA may still fuse a path with those above it; where the last bit matters give
    every path a program of its own (`run_path`), as evaluation does.

    Args:
      variables: trained or frozen.
      images: uint8 [batch, height, width, channels].
      train: whether to normalise by the batch's statistics.
      precisions: the bits wanted, all by default. Paths above the highest one are not run.

    Raises:
      ValueError: for precisions that this network does not have.
    """
    logits, _ = self.apply_and_update(variables, images, precisions, train=train)
    return logits

  def apply_and_update(
    self,
    variables: Variables,
    images: jax.Array,
    precisions: Sequence[int] | None = None,
    *,
    train: bool = True,
    gradient_scale: GradientScale = whole_gradient,
    fixed: int = 0,
    key: jax.Array | None = None,
  ) -> tuple[jax.Array, dict[str, Any]]:
    """Returns the logits and the running statistics, updated: a forward pass of training.

    Args:
      variables: trained or frozen.
      images: uint8 [batch, height, width, channels].
      precisions: the bits wanted, all by default. Paths above the highest one are not run.
      train: whether to normalise by the batch's statistics and update the running averages.
      gradient_scale: lambda(b_j, b_k) of eq. 6, applied where path j hands up to path k. As every
        chain from path j to loss k climbs, and the scales along it multiply to lambda(j, k), be it
        a power of `b_j / b_k`, 1 or 0, one backward pass gives eq. 6.
      fixed: how many of the lowest paths are not trained: they run as in evaluation and get no
        gradient.
      key: for networks that draw at random what they train; an onion draws nothing.

    Returns:
      Logits [precisions, batch, num_classes], and `{psbn_B: ...}` of the paths that were run.

    Raises:
      ValueError: for precisions that this network does not have.
    """
    del key
    wanted = checks.check_precisions(precisions, self.bits)
    logits: dict[int, jax.Array] = {}
    statistics: dict[str, Any] = {}
    highest = self.bits.index(max(wanted))
    paths = self.run_paths(
      variables, images, highest, train=train, gradient_scale=gradient_scale, fixed=fixed
    )
    for index, _, output in paths:
      logits[self.bits[index]] = output.logits
      statistics |= output.statistics
    return jnp.stack([logits[precision] for precision in wanted]), statistics

  def run_paths(
    self,
    variables: Variables,
    images: jax.Array,
    highest: int,
    *,
    train: bool,
    gradient_scale: GradientScale = whole_gradient,
    fixed: int = 0,
  ) -> Iterator[tuple[int, Laterals, PathOutput]]:
    """Yields the index of each path up to `highest`, what it received, and what it gave.

    The arguments are those of `apply_and_update`; laterals are received with scaled gradients.
    """
    laterals: dict[int, dict[str, Any]] = {}
    for index, precision in enumerate(self.bits[: highest + 1]):
      received: dict[str, Any] = {}
      for lower, handed_up in laterals.items():
        scale = gradient_scale(lower, precision)
        received |= {name: optax.scale_gradient(z, scale) for name, z in handed_up.items()}
      own = self.variables_of_path(variables, index)
      own = jax.lax.stop_gradient(own) if index < fixed else own
      output = self.run_path(own, index, images, received, train=train and index >= fixed)
      laterals[precision] = output.laterals
      yield index, received, output

  def freeze(self, variables: Variables) -> dict[str, Any]:
    """Turns the latents of all paths into the shared integers.

    Args:
      variables: trained variables, with latents.

    Returns:
      The same variables without latents, and `onion`: `{layer: {kernel}}`, the packed integers,
      uint16 (uint32 above 16 bits); float kernels in a network of `bits=(32,)`.

    Raises:
      ValueError: if `variables` are frozen already.
    """
    checks.check_latents(variables)
    latents: dict[tuple[str, ...], list[Any]] = {}
    params: dict[str, Any] = {}
    # In the order of the bit list, which the mapping need not have.
    for name in map(path_name, self.bits):
      kept: dict[tuple[str, ...], Any] = {}
      for path, leaf in trees.flatten(variables['params'][name]).items():
        if path[-1] == 'latent':
          latents.setdefault((*path[:-1], 'kernel'), []).append(leaf)
        else:
          kept[path] = leaf
      params[name] = traverse_util.unflatten_dict(kept)
    kernels = {path: self._pack(rings) for path, rings in latents.items()}
    return {**variables, 'params': params, ONION: traverse_util.unflatten_dict(kernels)}

  def cut(self, frozen: Variables, precision: int) -> tuple['Onion', dict[str, Any]]:
    """Cuts off the precisions above one, as a smaller device holds the network.

    Args:
      frozen: variables as `freeze` returns them.
      precision: bits of the highest precision kept.

    Returns:
      The smaller network and its variables, weights truncated to `precision` bits. Its logits are
      those of the whole network at these precisions, bit for bit.

    Raises:
      ValueError: for a precision that this network does not have, or variables not frozen.
    """
    kept = self.bits[: onion.check_precision(precision, self.bits) + 1]
    if ONION not in frozen:
      raise ValueError('these variables hold latents: freeze them first.')
    smaller = self.lowest(len(kept))
    variables: dict[str, Any] = {'params': {}}
    for index in range(len(kept)):
      own = self.variables_of_path(frozen, index)
      variables = {**own, **variables, 'params': variables['params'] | own['params']}
    if precision != self.bits[-1]:
      dtype = onion.packed_dtype(kept)
      variables[ONION] = jax.tree.map(
        lambda kernel: onion.truncate(kernel, self.bits, to=precision).astype(dtype),
        frozen[ONION],
      )
    return smaller, variables

  def stored_bytes(self, frozen: Variables) -> dict[int, int]:
    """Returns the size of the network cut at each precision: packed integers, and floats kept.

    Args:
      frozen: variables as `freeze` returns them.

    Returns:
      `{precision: bytes}`: `b / 8` bytes a quantized weight, and the bytes of every parameter and
      statistic of the paths up to that precision.
    """
    weights = sum(kernel.size for kernel in jax.tree.leaves(frozen[ONION]))
    sizes, floats = dict[int, int](), 0
    for precision in self.bits:
      own = (frozen['params'][path_name(precision)], frozen[statistics_collection(precision)])
      floats += sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(own))
      sizes[precision] = -(-weights * precision // 8) + floats
    return sizes

  def _pack(self, latents: list[jax.Array]) -> jax.Array:
    if self.bits == (quantizers.FLOAT_WIDTH,):
      return latents[0]
    quantize, widths = self.options.weight_quantizer, onion.ring_widths(self.bits)
    return onion.pack([quantize(w, r) for w, r in zip(latents, widths, strict=True)], self.bits)
