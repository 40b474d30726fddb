"""Writes a trained network as files for devices.

    python -m dpoq_jax.export --workdir=DIR --output=FOLDER [--format=onion|onnx|stablehlo]
        [--operating-point=FILE] [--step=N|best] [--calibration-images=512] [--data-dir=D]

`onion`: a manifest and one file per ring, of which a device holds as many as it has room for.
`onnx`: a graph per path and one per precision, and a `predict.py` that needs NumPy and ONNX Runtime
alone; scales of activations are chosen on training images.
`stablehlo`: the same graphs for JAX and other readers of StableHLO, on CPU, CUDA and TPU.

The operating point of the workdir goes with it, if there is one, or another file's.
"""

import json
import pathlib
from typing import Any

from absl import flags
import rich.console

from dpoq_jax import cli
from dpoq_jax.runtime import workdir

_WORKDIR = flags.DEFINE_string('workdir', None, 'directory of the run')
_OUTPUT = flags.DEFINE_string('output', None, 'folder to write; must not hold anything')
_FORMAT = flags.DEFINE_enum('format', 'onion', ['onion', 'onnx', 'stablehlo'], 'kind of files')
_POINT = flags.DEFINE_string('operating_point', None, 'file; the one in the workdir by default')
_STEP = flags.DEFINE_string('step', None, 'checkpoint, or "best"; the newest intact one by default')
_CALIBRATION = flags.DEFINE_integer(
  'calibration_images', 512, 'training images that scales are chosen on, with --format=onnx'
)
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'where the data set is now, if it moved')


def main() -> None:
  """The command."""
  directory, output = cli.required_path(_WORKDIR), cli.required_path(_OUTPUT)
  with cli.user_errors():
    config = workdir.read_config(directory)
    # Imported once there is something to do, since JAX takes seconds.
    import jax

    from dpoq_jax.deploy import export_folder
    from dpoq_jax.inference import operating_point
    from dpoq_jax.training import restore

    given = pathlib.Path(_POINT.value or directory / operating_point.FILE)
    point = operating_point.read(given) if _POINT.value or given.exists() else None
    step = cli.checkpoint_step(_STEP.value)
    trained = restore.load(directory, point.check(config.data.name, step) if point else step)
    if point and point.bits != trained.network.bits:
      raise ValueError(
        f'the operating point in {given} is for bits={point.bits}, the network has '
        f'{trained.network.bits}.'
      )
    if point and point.data and point.data.step != trained.step:
      cli.warn(f'the operating point was chosen at step {point.data.step}, not {trained.step}.')
    variables = jax.device_get(trained.variables)
    points = (json.loads(point.to_json()),) if point else ()
    write = {'onion': _write_onion, 'onnx': _write_onnx, 'stablehlo': _write_stablehlo}
    with export_folder.emptied_on_failure(output):
      write[_FORMAT.value](output, trained, variables, points)
  rich.console.Console().print(f'written to {output}', soft_wrap=True)


def _write_onion(output: pathlib.Path, trained: Any, variables: Any, points: tuple) -> None:
  from dpoq_jax.deploy.artifact import rings, table
  from dpoq_jax.deploy.artifact.manifest import Source
  from dpoq_jax.network import costs
  from dpoq_jax.training import metrics

  config, shape = trained.config, trained.facts.image_shape
  cost = costs.path_cost(trained.network, shape)
  manifest = rings.write(
    output,
    variables,
    top1=metrics.top1_at(metrics.read_rows(cli.required_path(_WORKDIR)), trained.step),
    model=config.model,
    quantization=config.quantization,
    class_names=trained.facts.class_names,
    image_shape=shape,
    multiply_accumulates=sum(c.multiply_accumulates for c in cost.convolutions),
    operating_points=points,
    source=Source(dataset=config.data.name, step=trained.step),
  )
  rich.console.Console().print(table.table(manifest))


def _write_onnx(output: pathlib.Path, trained: Any, variables: Any, points: tuple) -> None:
  from dpoq_jax.deploy.onnx import export

  images = trained.with_data_in(_DATA_DIR.value).training_images(_CALIBRATION.value)
  export.write(output, trained.network, variables, images, **_known(trained, points))


def _write_stablehlo(output: pathlib.Path, trained: Any, variables: Any, points: tuple) -> None:
  from dpoq_jax.deploy import stablehlo

  shape = trained.facts.image_shape
  stablehlo.write(output, trained.network, variables, shape, **_known(trained, points))


def _known(trained: Any, points: tuple) -> dict[str, Any]:
  """What a folder of graphs says beside them."""
  return {
    'class_names': trained.facts.class_names,
    'operating_points': points,
    'source': {'dataset': trained.config.data.name, 'step': trained.step},
  }


if __name__ == '__main__':
  cli.run(main)
