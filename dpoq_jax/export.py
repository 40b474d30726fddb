"""Writes a trained network as files for devices.

    dpoq export --workdir=DIR --output=FOLDER [--format=onion|onnx|stablehlo]
        [--operating-point=FILE] [--step=N|best] [--calibration-images=512] [--data-dir=D]

`onion`: a manifest and one file per ring, of which a device holds as many as it has room for.
`onnx`: a graph per path, one per precision, one of the whole cascade, which stops by itself, and a
`predict.py` that needs NumPy and ONNX Runtime alone; scales of activations are chosen on training
images. Beside them are graphs and settings in the layout that optimum and transformers.js read
(docs/onnx.md).
`stablehlo`: the same graphs for JAX and other readers of StableHLO, on CPU, CUDA and TPU.

The operating point of the workdir goes with it, if there is one, or another file's.

    dpoq export --workdir=runs/digits --output=shipped --format=onnx
"""

import dataclasses
import json
import pathlib
from typing import TYPE_CHECKING, Any

from dpoq_jax.cli import flags as shared
from dpoq_jax.cli.errors import user_errors, warn
from dpoq_jax.cli.run import run
from dpoq_jax.runtime.console import Console

if TYPE_CHECKING:
  from dpoq_jax.inference.operating_point import OperatingPoint
  from dpoq_jax.network.onion_network import Onion
  from dpoq_jax.training.trained_network import Trained


def define_flags(flags: shared.FlagValues) -> None:
  """Defines the flags of the command."""
  shared.define_workdir(flags)
  shared.define_output(flags, 'folder to write; must not hold anything')
  shared.define_operating_point(flags)
  shared.define_step(flags)
  shared.define_data_dir(flags)
  shared.DEFINE_enum('format', 'onion', list(_WRITE), 'kind of files', flag_values=flags)
  shared.DEFINE_integer(
    'calibration_images', 512, 'training images that ranges are chosen on, with --format=onnx',
    flag_values=flags,
  )  # fmt: skip


def main(flags: shared.FlagValues) -> None:
  """Writes the files of a trained network."""
  directory = shared.required_path(flags, 'workdir')
  output = shared.required_path(flags, 'output')
  with user_errors(data_flag=shared.DATA_DIR):
    # Imported once there is something to do, since JAX takes seconds.
    import jax

    from dpoq_jax import from_run
    from dpoq_jax.deploy import export_folder

    point = from_run.read_operating_point(directory, shared.optional_path(flags, 'operating_point'))
    trained = from_run.open_network(directory, shared.checkpoint_step(flags), point)
    if point and point.data and point.data.step != trained.step:
      warn(f'the operating point was chosen at step {point.data.step}, not {trained.step}.')
    if point and not point.met:
      warn('this operating point did not meet its target when it was chosen.')
    trained = dataclasses.replace(trained, variables=jax.device_get(trained.variables))
    known = {
      'class_names': trained.facts.class_names,
      'operating_points': (_to_ship(point),) if point else (),
    }
    with export_folder.emptied_on_failure(output):
      _WRITE[flags.format](output, trained, flags, known)
  Console().print(f'written to {output}', soft_wrap=True)


def _write_onion(
  output: pathlib.Path, trained: 'Trained[Onion]', flags: shared.FlagValues, known: dict[str, Any]
) -> None:
  """Writes the rings."""
  from dpoq_jax.deploy.artifact import rings, table
  from dpoq_jax.deploy.artifact.manifest import BitOps, Source
  from dpoq_jax.network import costs
  from dpoq_jax.training import metrics

  config, shape = trained.config, trained.facts.image_shape
  cost = costs.path_cost(trained.network, shape)
  manifest = rings.write(
    output,
    trained.variables,
    top1=metrics.top1_at(metrics.read_rows(pathlib.Path(flags.workdir)), trained.step),
    model=config.model,
    quantization=config.quantization,
    image_shape=shape,
    resize=config.data.resize,
    multiply_accumulates=sum(c.multiply_accumulates for c in cost.convolutions),
    bitops=tuple(BitOps(**each._asdict()) for each in costs.bitops(trained.network, shape)),
    source=Source(**_source(trained)),
    **known,
  )
  Console().print(table.table(manifest))


def _write_onnx(
  output: pathlib.Path, trained: 'Trained[Onion]', flags: shared.FlagValues, known: dict[str, Any]
) -> None:
  """Writes the ONNX graphs."""
  from dpoq_jax.deploy.onnx import export

  images = trained.with_data_in(flags.data_dir).training_images(flags.calibration_images)
  export.write(
    output,
    trained.network,
    trained.variables,
    images,
    resize=trained.config.data.resize,
    source=_source(trained),
    **known,
  )


def _write_stablehlo(
  output: pathlib.Path, trained: 'Trained[Onion]', flags: shared.FlagValues, known: dict[str, Any]
) -> None:
  """Writes the StableHLO programs."""
  from dpoq_jax.deploy import stablehlo

  del flags
  shape = trained.facts.image_shape
  stablehlo.write(
    output, trained.network, trained.variables, shape, source=_source(trained), **known
  )


def _source(trained: 'Trained[Onion]') -> dict[str, Any]:
  """Returns where a network comes from, as manifests have it."""
  return {'dataset': _dataset_name(trained.config.data.name), 'step': trained.step}


def _to_ship(point: 'OperatingPoint') -> dict[str, Any]:
  """Returns an operating point as JSON, as manifests have it."""
  fields = json.loads(point.to_json())
  if point.data:
    fields['data']['dataset'] = _dataset_name(point.data.dataset)
  return fields


def _dataset_name(name: str) -> str:
  """Returns the name of a data set without where on this machine it is.

  >>> _dataset_name('/data/tensorflow_datasets/imagenet2012/5.1.0')
  'imagenet2012/5.1.0'
  >>> _dataset_name('cifar10')
  'cifar10'
  """
  path = pathlib.Path(name).expanduser()
  return '/'.join(path.parts[-2:]) if path.is_absolute() else name


_WRITE = {'onion': _write_onion, 'onnx': _write_onnx, 'stablehlo': _write_stablehlo}


if __name__ == '__main__':
  run(define_flags, main)
