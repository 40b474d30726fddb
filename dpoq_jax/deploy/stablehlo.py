"""Writes networks as StableHLO: a program for each path and one for each precision, with weights.

A program runs on CPU, CUDA and TPU, with any batch size, in JAX or another reader of StableHLO, and
needs nothing of this library.

    path_2 = jax.export.deserialize(pathlib.Path('path_2.stablehlo').read_bytes())
    logits, laterals = path_2.call(images, {})
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import pathlib
from typing import Any, NamedTuple

import jax
from jax import export
import jax.numpy as jnp

from dpoq_jax import onion
from dpoq_jax.core.names import ONION, path_name
from dpoq_jax.deploy import export_folder, graph_folder
from dpoq_jax.network import onion_network
from dpoq_jax.network.trainable import Variables

PLATFORMS = ('cpu', 'cuda', 'tpu')


class Programs(NamedTuple):
  """Holds the programs of a folder.

  Attributes:
    manifest: content of `manifest.json`.
    paths: a program for each path, from the lowest up. It maps uint8 [batch, height, width,
      channels] and `{lateral_B: ...}` of all lower precisions to float32 logits [batch, classes]
      and `{lateral_B: ...}`, what it hands up itself.
    precisions: a program for each precision, from the lowest up. It runs all paths up to it and
      maps images to logits.
  """

  manifest: dict[str, Any]
  paths: tuple[export.Exported, ...]
  precisions: tuple[export.Exported, ...]


def write(
  folder: pathlib.Path,
  network: onion_network.Onion,
  variables: Variables,
  image_shape: Sequence[int],
  **known: Any,
) -> dict[str, Any]:
  """Writes `path_B.stablehlo`, `precision_B.stablehlo` and `manifest.json`.

  Args:
    folder: the folder, which is made; it must not hold anything.
    network: the network.
    variables: frozen variables.
    image_shape: (height, width, channels).
    **known: what `export_folder.write_manifest` takes: class_names, operating_points, source; and
      `resize`, the shorter side to which files are resized before their centre is taken, pixels.

  Returns:
    The manifest.

  Raises:
    FileExistsError: if there is something in the folder.
    ValueError: for variables that hold latents.
  """
  export_folder.make_for_frozen(folder, variables)
  classes = 0

  def written(name: Callable[[int], str], programs: Iterator[export.Exported]) -> list[Any]:
    """Writes a program for each precision; returns their entries in the manifest."""
    nonlocal classes
    entries: list[Any] = []
    for precision, program in zip(network.bits, programs, strict=True):
      classes = program.out_avals[0].shape[-1]
      file = folder / f'{name(precision)}.stablehlo'
      entries.append(export_folder.write_graph(file, precision, bytes(program.serialize())))
    return entries

  images = jax.ShapeDtypeStruct((*export.symbolic_shape('batch'), *image_shape), jnp.uint8)
  with _without_source_paths():
    paths = written(path_name, _paths(network, variables, images))
    precisions = written('precision_{}'.format, _precisions(network, variables, images))
  return export_folder.write_manifest(
    folder,
    network.bits,
    image_shape,
    classes=classes,
    platforms=PLATFORMS,
    paths=paths,
    precisions=precisions,
    **known,
  )


def read(folder: pathlib.Path) -> Programs:
  """Reads a folder that `write` wrote.

  Raises:
    FileNotFoundError: if a file is missing.
    ValueError: if a file was altered, or the folder is of another format or of another kind.
  """
  manifest = graph_folder.read(folder, 'StableHLO programs', 'platforms')

  def program(entry: Mapping[str, Any]) -> export.Exported:
    """Reads a program."""
    content = graph_folder.read_file(folder, entry)
    try:
      return export.deserialize(bytearray(content))
    # What is no program may raise anything.
    except Exception as error:
      raise ValueError(f'{folder / entry["file"]} is no StableHLO program ({error}).') from None

  return Programs(
    manifest, tuple(map(program, manifest['paths'])), tuple(map(program, manifest['precisions']))
  )


@contextlib.contextmanager
def _without_source_paths() -> Iterator[None]:
  """Leaves out of programs which files, of this machine, their operations were written in."""
  config: Any = jax.config
  frames = config.jax_traceback_in_locations_limit
  config.update('jax_traceback_in_locations_limit', 0)
  try:
    yield
  finally:
    config.update('jax_traceback_in_locations_limit', frames)


def _paths(
  network: onion_network.Onion, variables: Variables, images: jax.ShapeDtypeStruct
) -> Iterator[export.Exported]:
  """Exports a program for each path, the lowest first, since the next one takes its laterals."""
  (batch, *_) = images.shape

  def of_any_batch(leaf: Any) -> jax.ShapeDtypeStruct:
    """Describes laterals of as many images as there will be."""
    return jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype)

  received: dict[str, Any] = {}
  for index in range(len(network.bits)):
    held = _held(network, variables, index)

    @jax.jit
    def path(images: jax.Array, laterals: Any, held: Any = held, index: int = index) -> Any:
      output = network.run_path(held, index, images, laterals)
      return output.logits, output.laterals

    program = export.export(path, platforms=PLATFORMS)(images, received)
    yield program
    _, handed_up = jax.tree.unflatten(program.out_tree, program.out_avals)
    received |= jax.tree.map(of_any_batch, handed_up)


def _precisions(
  network: onion_network.Onion, variables: Variables, images: jax.ShapeDtypeStruct
) -> Iterator[export.Exported]:
  """Exports a program for each precision, the lowest first."""
  for index, precision in enumerate(network.bits):
    held = _held(network, variables, index)

    @jax.jit
    def run(images: jax.Array, held: Any = held, precision: int = precision) -> jax.Array:
      return network.apply(held, images, precisions=(precision,))[0]

    yield export.export(run, platforms=PLATFORMS)(images)


def _held(network: onion_network.Onion, variables: Variables, index: int) -> dict[str, Any]:
  """Returns the variables without the bits of higher precisions, so that no program holds them."""
  precision, top = network.bits[index], network.bits[-1]
  if precision == top:
    return dict(variables)

  def without_higher_rings(kernel: Any) -> Any:
    """Sets the bits of higher rings to 0."""
    return onion.truncate(kernel, network.bits, to=precision) << (top - precision)

  return {**variables, ONION: jax.tree.map(without_higher_rings, variables[ONION])}
