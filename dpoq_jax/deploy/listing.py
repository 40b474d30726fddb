"""What an artifact's rings hold, as a table."""

import rich.table

from dpoq_jax.deploy.manifest import Manifest


def table(manifest: Manifest) -> rich.table.Table:
  """A row per precision: what its ring adds, and what a device holds that stops there."""
  source, model = manifest.source, manifest.model.label
  result = rich.table.Table(
    title=f'{model} on {source.dataset}, step {source.step}; {manifest.weights:,} quantized weights'
  )
  for column in ('bits', 'ring, bytes', 'in all', 'parameters', 'relative BitOPs', 'top-1 %'):
    result.add_column(column, justify='right')
  size, parameters = 0, manifest.weights
  for ring in manifest.rings:
    size += ring.bytes
    parameters += ring.float_count
    result.add_row(
      str(ring.precision),
      f'{ring.bytes:,}',
      f'{size:,}',
      f'{parameters:,}',
      f'{ring.relative_bitops:g}',
      '' if ring.top1 is None else f'{100 * ring.top1:.2f}',
    )
  return result
