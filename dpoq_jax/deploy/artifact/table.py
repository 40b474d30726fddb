"""Shows what the rings of an artifact hold as a table."""

import rich.table

from dpoq_jax.deploy.artifact.manifest import Manifest
from dpoq_jax.runtime import terminal


def table(manifest: Manifest) -> rich.table.Table:
  """Returns a table with a line per precision: what its ring adds, and all up to it together."""
  source, weights = manifest.source, manifest.weights
  model = manifest.model.label
  result = rich.table.Table(
    title=terminal.one_line(
      f'{model} on {source.dataset}, step {source.step}; {weights:,} quantized weights'
    ),
    caption='apart: individual networks of these precisions, each with weights of its own; '
    f'one in float32 has {4 * weights:,} bytes of weights; BitOPs: of one image, of convolutions, '
    'and of merging laterals (8 x 8 bits, or float)',
  )
  for column in (
    'bits',
    'ring, B',
    'in all,\nB',
    'apart,\nB',
    'params',
    'BitOPs,\nG',
    'laterals,\nG',
    'top-1\n%',
  ):
    result.add_column(column, justify='right')
  size, apart, parameters = 0, 0, weights
  for index, ring in enumerate(manifest.rings):
    size += ring.bytes
    apart += manifest.separate_bytes(index)
    parameters += ring.float_count
    bitops = None if manifest.bitops is None else manifest.bitops[index]
    result.add_row(
      str(ring.precision),
      f'{ring.bytes:,}',
      f'{size:,}',
      f'{apart:,}',
      f'{parameters:,}',
      '' if bitops is None else f'{bitops.convolutions / 1e9:.3g}',
      '' if bitops is None else f'{bitops.laterals / 1e9:.3g}',
      '' if ring.top1 is None else f'{100 * ring.top1:.2f}',
    )
  return result
