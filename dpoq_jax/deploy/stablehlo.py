"""Networks as StableHLO: a program per path and one per precision, weights within.

A program runs on CPU, CUDA and TPU, with any batch size, wherever JAX or another reader of
StableHLO does; nothing of this library is needed.

    path_2 = jax.export.deserialize(pathlib.Path('path_2.stablehlo').read_bytes())
    logits, laterals = path_2.call(images, {})
"""

from collections.abc import Iterator, Mapping, Sequence
import hashlib
import json
import pathlib
from typing import Any, NamedTuple

import jax
from jax import export
import jax.numpy as jnp

from dpoq_jax import onion
from dpoq_jax.deploy import export_folder as folder_lib
from dpoq_jax.network import onion_network

FORMAT = 1
PLATFORMS = ('cpu', 'cuda', 'tpu')


class Programs(NamedTuple):
  """What a folder holds.

  Attributes:
    manifest: content of `manifest.json`.
    paths: from the lowest up. Each maps uint8 [batch, height, width, channels] and `{lateral_B:
      ...}` of all lower precisions to float32 logits [batch, classes] and `{lateral_B: ...}`, what
      it hands up itself.
    precisions: from the lowest up, each all paths up to one: images to logits.
  """

  manifest: dict[str, Any]
  paths: tuple[export.Exported, ...]
  precisions: tuple[export.Exported, ...]


def write(
  folder: pathlib.Path,
  network: onion_network.Onion,
  variables: onion_network.Variables,
  image_shape: Sequence[int],
  **known: Any,
) -> dict[str, Any]:
  """Writes `path_B.stablehlo`, `precision_B.stablehlo` and `manifest.json`.

  Args:
    folder: made; must not hold anything.
    network: the network.
    variables: frozen.
    image_shape: height, width, channels.
    **known: of `folder.write_manifest`: class_names, operating_points, source.

  Returns:
    The manifest.

  Raises:
    FileExistsError: if there is something in the folder.
    ValueError: for variables that hold latents.
  """
  if 'onion' not in variables:
    raise ValueError('these variables hold latents: freeze them first (Onion.freeze).')
  folder_lib.make_empty(folder)

  def written(kind: str, programs: Iterator[export.Exported]) -> list[dict[str, Any]]:
    return [
      folder_lib.write_graph(
        folder / f'{kind}_{precision}.stablehlo', precision, bytes(program.serialize())
      )
      for precision, program in zip(network.bits, programs, strict=True)
    ]

  images = jax.ShapeDtypeStruct((*export.symbolic_shape('batch'), *image_shape), jnp.uint8)
  return folder_lib.write_manifest(
    folder,
    network.bits,
    image_shape,
    format=FORMAT,
    platforms=PLATFORMS,
    paths=written('path', _paths(network, variables, images)),
    precisions=written('precision', _precisions(network, variables, images)),
    **known,
  )


def read(folder: pathlib.Path) -> Programs:
  """Reads what `write` wrote.

  Raises:
    FileNotFoundError: if a file is missing.
    ValueError: if one was altered, or the folder is of a newer format, or of another kind.
  """
  manifest = json.loads((folder / folder_lib.MANIFEST).read_text('utf-8'))
  # Graphs for other runtimes and artifacts have a manifest of that name, too.
  if not isinstance(manifest, dict) or not {'format', 'platforms'} <= manifest.keys():
    raise ValueError(f'{folder} holds no StableHLO programs.')
  if manifest['format'] > FORMAT:
    raise ValueError(
      f'{folder} is of format {manifest["format"]}; this version reads up to {FORMAT}: upgrade it.'
    )

  def programs(entries: Sequence[Mapping[str, Any]]) -> Iterator[export.Exported]:
    for entry in entries:
      content = (folder / entry['file']).read_bytes()
      if hashlib.sha256(content).hexdigest() != entry['sha256']:
        raise ValueError(f'{entry["file"]} was altered: its digest is not that of the manifest.')
      yield export.deserialize(bytearray(content))

  return Programs(
    manifest, tuple(programs(manifest['paths'])), tuple(programs(manifest['precisions']))
  )


def _paths(
  network: onion_network.Onion, variables: onion_network.Variables, images: jax.ShapeDtypeStruct
) -> Iterator[export.Exported]:
  (batch, *_) = images.shape
  received: dict[str, Any] = {}
  for index in range(len(network.bits)):
    held = _held(network, variables, index)

    @jax.jit
    def path(images, laterals, held=held, index=index):
      output = network.run_path(held, index, images, laterals)
      return output.logits, output.laterals

    program = export.export(path, platforms=PLATFORMS)(images, received)
    yield program
    _, handed_up = jax.tree.unflatten(program.out_tree, program.out_avals)
    received |= jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype), handed_up
    )


def _precisions(
  network: onion_network.Onion, variables: onion_network.Variables, images: jax.ShapeDtypeStruct
) -> Iterator[export.Exported]:
  for index, precision in enumerate(network.bits):
    held = _held(network, variables, index)

    @jax.jit
    def run(images, held=held, precision=precision):
      return network.apply(held, images, precisions=(precision,))[0]

    yield export.export(run, platforms=PLATFORMS)(images)


def _held(
  network: onion_network.Onion, variables: onion_network.Variables, index: int
) -> dict[str, Any]:
  """The variables, without the bits of higher precisions: no program tells what it does not use."""
  precision, top = network.bits[index], network.bits[-1]
  if precision == top:
    return dict(variables)
  kernels = jax.tree.map(
    lambda kernel: onion.truncate(kernel, network.bits, to=precision) << (top - precision),
    variables['onion'],
  )
  return {**variables, 'onion': kernels}
