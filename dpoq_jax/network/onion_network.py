"""The onion: K ordinary networks (paths) run from low to high, each handing its features up.

Cutting to k precisions is running the first k paths; upgrading an input is running one more path
with the laterals kept; a gradient mode is a scale at the hand-over.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any, NamedTuple

from flax import traverse_util
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from dpoq_jax import onion
from dpoq_jax.core import layers, quantizers

Variables = Mapping[str, Any]
"""Flax collections: `params`, one `psbn_B` per precision and, once frozen, `onion`."""

Laterals = Mapping[str, Any]
"""Collections `lateral_B`: what the paths run so far handed up, per layer."""

GradientScale = Callable[[int, int], float]
"""lambda(b_j, b_k): factor on what the loss of precision b_k sends down to path b_j (eq. 6)."""


def whole_gradient(lower: int, higher: int) -> float:
  """lambda = 1: every loss reaches every path below it unscaled."""
  del lower, higher
  return 1.0


def path_name(precision: int) -> str:
  """Name of a path's subtree in `params`."""
  return f'path_{precision}'


class PathOutput(NamedTuple):
  """What running one path gives.

  Attributes:
    logits: [batch, num_classes].
    laterals: `{lateral_B: ...}`, what this path (alone) hands up.
    statistics: `{psbn_B: ...}`, this path's running statistics, updated if it ran in training.
  """

  logits: jax.Array
  laterals: dict[str, Any]
  statistics: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Onion:
  """One network at several precisions.

  Variables of a network with `bits=(2, 4)`:

      params:         {path_2: {...}, path_4: {...}}   latents, gamma, beta, clips, heads
      psbn_2, psbn_4: running mean and variance
      onion:          {layer: {kernel: uint16}}        replaces all latents once frozen

  Attributes:
    model: `model(spec=..., num_classes=...)` builds the Linen module of one path, for example
      `functools.partial(CifarResNet, depth=20)`; the module maps (images, train) to logits.
    bits: increasing bit list. `(b,)` is the individual b-bit network, `(32,)` the float one.
    activation_bits: bits of every activation; 32 is a plain ReLU.
    num_classes: outputs of each classifier.
    options: see `LayerOptions`.

  Raises:
    ValueError: for a bad bit list, a ring or activation wider than 16 bits (32, float, apart), or
      one that the compute dtype would round (wider than 8 bits in bfloat16).
  """

  model: Callable[..., nn.Module]
  bits: tuple[int, ...]
  activation_bits: int = 8
  num_classes: int = 10
  options: layers.LayerOptions = layers.LayerOptions()

  def __post_init__(self):
    object.__setattr__(self, 'bits', onion.check_bits(self.bits))
    widths = {
      f'ring {k} of bits={self.bits}': w for k, w in enumerate(onion.ring_widths(self.bits))
    }
    widths['activation_bits'] = self.activation_bits
    dtype = jnp.dtype(self.options.compute_dtype)
    exact = jnp.finfo(dtype).nmant + 1
    for name, width in widths.items():
      quantizers.check_width(name, width)
      if exact < width < quantizers.FLOAT_WIDTH:
        raise ValueError(
          f'{name}={width}: {dtype} holds integers of up to {exact} bits exactly; use float32.'
        )

  def path(self, index: int) -> nn.Module:
    """The Linen module of path `index`, from 0."""
    spec = layers.PathSpec(self.bits, index, self.activation_bits, self.options)
    return self.model(spec=spec, num_classes=self.num_classes)

  def init(self, key: jax.Array, images: jax.Array) -> dict[str, Any]:
    """Fresh variables.

    Args:
      key: a PRNG key; path k uses `fold_in(key, k)`, so lower paths do not depend on higher ones.
      images: uint8 [batch, height, width, channels]; only the shape matters.
    """
    variables: dict[str, Any] = {'params': {}}
    laterals: dict[str, Any] = {}
    for index, precision in enumerate(self.bits):
      names = self._collections(index)
      _, created = self.path(index).apply(
        laterals,
        images,
        rngs={'params': jax.random.fold_in(key, index)},
        mutable=['params', *names],
      )
      variables['params'][path_name(precision)] = created['params']
      variables[names.statistics] = created[names.statistics]
      laterals[names.laterals] = created[names.laterals]
    return variables

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
      train: batch statistics and updated running averages instead of the running averages.

    Raises:
      ValueError: if the laterals of a lower path are missing.
    """
    precision, names = self.bits[index], self._collections(index)
    laterals = laterals or {}
    if missing := set(map(layers.lateral_collection, self.bits[:index])) - set(laterals):
      raise ValueError(f'path {index} ({precision} bits) reads {sorted(missing)}: run those first.')
    own = self.variables_of_path(variables, index)
    collections = {**laterals, **own, 'params': own['params'][path_name(precision)]}
    # The highest path has nobody to hand up to.
    written = [names.laterals] if index + 1 < len(self.bits) else []
    if train:
      written.append(names.statistics)
    logits, updates = self.path(index).apply(collections, images, train, mutable=written)
    statistics = updates.get(names.statistics, variables[names.statistics])
    return PathOutput(
      logits,
      {names.laterals: updates.get(names.laterals, {})},
      {names.statistics: statistics},
    )

  def variables_of_path(self, variables: Variables, index: int) -> dict[str, Any]:
    """What path `index` reads of `variables`: its own subtrees, and the shared integers."""
    name, statistics = path_name(self.bits[index]), self._collections(index).statistics
    own = {'params': {name: variables['params'][name]}, statistics: variables[statistics]}
    return own | ({'onion': variables['onion']} if 'onion' in variables else {})

  def apply(
    self,
    variables: Variables,
    images: jax.Array,
    train: bool = False,
    precisions: Sequence[int] | None = None,
    *,
    mutable: bool = False,
    gradient_scale: GradientScale = whole_gradient,
    fixed: int = 0,
  ) -> Any:
    """Runs the paths up to the highest precision asked for.

    Paths read nothing from above, so the precisions asked for do not change one another's logits.
    Under one `jit` XLA may still fuse a path with those above it; where the last bit matters give
    every path a program of its own (`run_path`), as evaluation does.

    Args:
      variables: trained or frozen.
      images: uint8 [batch, height, width, channels].
      train: normalise by batch statistics.
      precisions: the bits wanted, all by default. Paths above the highest one are not run.
      mutable: also return the running statistics, as Linen's `apply` does.
      gradient_scale: lambda(b_j, b_k) of eq. 6, applied where path j hands up to path k. As every
        chain from path j to loss k climbs, and the scales along a chain multiply to lambda(j, k)
        for `b_j / b_k`, 1 and 0, one backward pass gives eq. 6.
      fixed: so many of the lowest paths are not trained: they run as in evaluation and get no
        gradient.

    Returns:
      Logits [precisions, batch, num_classes]; with `mutable`, `(logits, statistics)`, the latter
      `{psbn_B: ...}` of the paths that were run.

    Raises:
      ValueError: for precisions that this network does not have.
    """
    wanted = self.bits if precisions is None else tuple(precisions)
    if not wanted or not set(wanted) <= set(self.bits):
      raise ValueError(f'precisions={wanted}: this network has {self.bits}.')
    laterals: dict[int, Any] = {}
    logits: dict[int, jax.Array] = {}
    statistics: dict[str, Any] = {}
    for index, precision in enumerate(self.bits[: self.bits.index(max(wanted)) + 1]):
      received = {}
      for lower, handed_up in laterals.items():
        scale = gradient_scale(lower, precision)
        received |= {name: optax.scale_gradient(z, scale) for name, z in handed_up.items()}
      own = self.variables_of_path(variables, index)
      own = jax.lax.stop_gradient(own) if index < fixed else own
      output = self.run_path(own, index, images, received, train=train and index >= fixed)
      laterals[precision], logits[precision] = output.laterals, output.logits
      statistics |= output.statistics
    stacked = jnp.stack([logits[precision] for precision in wanted])
    return (stacked, statistics) if mutable else stacked

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
    if 'onion' in variables:
      raise ValueError('these variables are frozen already: they hold no latents.')
    latents: dict[tuple[str, ...], list[Any]] = {}
    params = {}
    # In the order of the bit list: the mapping's own order may be any.
    for name in map(path_name, self.bits):
      kept = {}
      for path, leaf in traverse_util.flatten_dict(variables['params'][name]).items():
        if path[-1] == 'latent':
          latents.setdefault((*path[:-1], 'kernel'), []).append(leaf)
        else:
          kept[path] = leaf
      params[name] = traverse_util.unflatten_dict(kept)
    kernels = {path: self._pack(rings) for path, rings in latents.items()}
    return {**variables, 'params': params, 'onion': traverse_util.unflatten_dict(kernels)}

  def cut(self, frozen: Variables, precision: int) -> tuple['Onion', dict[str, Any]]:
    """The network without the precisions above one, as a smaller device holds it.

    Args:
      frozen: what `freeze` returns.
      precision: bits of the highest precision kept.

    Returns:
      The smaller network and its variables, weights truncated to `precision` bits. Its logits are
      those of the whole network at these precisions, bit for bit.

    Raises:
      ValueError: for a precision that this network does not have, or variables not frozen.
    """
    if precision not in self.bits:
      raise ValueError(f'precision {precision}: this network has {self.bits}.')
    if 'onion' not in frozen:
      raise ValueError('these variables hold latents: freeze them first.')
    kept = self.bits[: self.bits.index(precision) + 1]
    smaller = dataclasses.replace(self, bits=kept)
    variables: dict[str, Any] = {'params': {}}
    for index in range(len(kept)):
      own = self.variables_of_path(frozen, index)
      variables = {**own, **variables, 'params': {**variables['params'], **own['params']}}
    if precision != self.bits[-1]:
      dtype = onion.packed_dtype(kept)
      variables['onion'] = jax.tree.map(
        lambda kernel: onion.truncate(kernel, self.bits, to=precision).astype(dtype),
        frozen['onion'],
      )
    return smaller, variables

  def stored_bytes(self, frozen: Variables) -> dict[int, int]:
    """Size of the network cut at each precision: packed integers, and floats of the paths kept.

    Args:
      frozen: what `freeze` returns.

    Returns:
      `{precision: bytes}`: `b / 8` bytes a quantized weight, and the bytes of every parameter and
      statistic of the paths up to that precision.
    """
    weights = sum(kernel.size for kernel in jax.tree.leaves(frozen['onion']))
    sizes, floats = {}, 0
    for precision in self.bits:
      own = (
        frozen['params'][path_name(precision)],
        frozen[layers.statistics_collection(precision)],
      )
      floats += sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(own))
      sizes[precision] = -(-weights * precision // 8) + floats
    return sizes

  def _pack(self, latents: list[Any]) -> jax.Array:
    if self.bits == (quantizers.FLOAT_WIDTH,):
      return latents[0]
    widths = onion.ring_widths(self.bits)
    quantize = self.options.weight_quantizer
    return onion.pack([quantize(w, r) for w, r in zip(latents, widths, strict=True)], self.bits)

  def _collections(self, index: int) -> '_Collections':
    precision = self.bits[index]
    return _Collections(
      layers.statistics_collection(precision), layers.lateral_collection(precision)
    )


class _Collections(NamedTuple):
  statistics: str
  laterals: str
