"""Writes a trained network as files for devices.

    dpoq export --workdir=DIR --output=FOLDER [--format=onion|onnx|stablehlo|web]
        [--operating-point=FILE] [--step=N|best] [--calibration-images=512] [--data-dir=D]
        [--runtime=DIR] [--test-images=24]

`onion`: a manifest and one file per ring, of which a device holds as many as it has room for.
`onnx`: a graph per path, one per precision, one of the whole cascade, which stops by itself, and a
`predict.py` that needs NumPy and ONNX Runtime alone; scales of activations are chosen on training
images. Beside them are graphs and settings in the layout that optimum and transformers.js read
(docs/onnx.md).
`stablehlo`: the same graphs for JAX and other readers of StableHLO, on CPU, CUDA and TPU.
`web`: a page for any static server, which runs the ONNX graphs of the paths as they arrive. Its
runtime, onnxruntime-web, is brought by npm, or read from a folder that has it. A few images of the
test split go with it, as PNG: with --test-images=0 none.

The operating point of the workdir goes with it, if there is one, or another file's.

    dpoq export --workdir=runs/digits --output=shipped --format=onnx
"""

import dataclasses
import json
import pathlib
import tempfile
from typing import TYPE_CHECKING, Any

from dpoq_jax.cli import flags as shared
from dpoq_jax.cli.errors import user_errors, warn
from dpoq_jax.cli.run import run
from dpoq_jax.runtime.console import Console

if TYPE_CHECKING:
  from dpoq_jax.inference.operating_point import OperatingPoint
  from dpoq_jax.network.onion_network import Onion
  from dpoq_jax.training.trained_network import Trained


# Flags that say nothing to other formats.
_ONLY_WITH = {
  'calibration_images': ('onnx', 'web'),
  'runtime': ('web',),
  'test_images': ('web',),
}


def define_flags(flags: shared.FlagValues) -> None:
  """Defines the flags of the command."""
  shared.define_workdir(flags)
  shared.define_output(flags, 'folder to write; must not hold anything')
  shared.define_operating_point(flags)
  shared.define_step(flags)
  shared.define_data_dir(flags)
  shared.DEFINE_enum('format', 'onion', list(_WRITE), 'kind of files', flag_values=flags)
  shared.DEFINE_integer(
    'calibration_images', 512, 'training images that ranges are chosen on, with --format=onnx|web',
    flag_values=flags,
  )  # fmt: skip
  shared.define_path('runtime', 'folder with onnxruntime-web, for --format=web without npm', flags)
  shared.DEFINE_integer(
    'test_images', 24, 'test images that go with --format=web', lower_bound=0, flag_values=flags
  )


def main(flags: shared.FlagValues) -> None:
  """Writes the files of a trained network."""
  directory = shared.required_path(flags, 'workdir')
  output = shared.required_path(flags, 'output')
  with user_errors(data_flag=shared.DATA_DIR):
    _check_of_use(flags)
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


def _check_of_use(flags: shared.FlagValues) -> None:
  """Refuses flags that the format has no use for."""
  for name, formats in _ONLY_WITH.items():
    if flags[name].present and flags.format not in formats:
      raise ValueError(
        f'--{name.replace("_", "-")} is of no use with --format={flags.format}: it is for '
        f'{" and ".join(formats)}.'
      )


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


def _write_web(
  output: pathlib.Path, trained: 'Trained[Onion]', flags: shared.FlagValues, known: dict[str, Any]
) -> None:
  """Writes the page, with operating points along the curve of the run's own."""
  from dpoq_jax import from_run
  from dpoq_jax.deploy.web import folder, runtime
  from dpoq_jax.inference import operating_point
  from dpoq_jax.reporting import choices

  given = shared.optional_path(flags, 'runtime')
  brought = runtime.from_npm() if given is None else runtime.read(given)
  point, seed = None, 0
  for shipped in known['operating_points']:
    point = operating_point.from_json(json.dumps(shipped))
    seed = (point.data and point.data.split_seed) or 0
  held_out = from_run.held_out(trained, flags.data_dir, seed)
  if point is None:
    point = from_run.default_operating_point(trained, held_out)
  evaluated = choices.evaluated_exits(point, held_out.calibration, held_out.reported)
  offered = choices.choices_of_order(
    point, point.order, held_out.calibration, evaluated, _POINTS_OF_A_PAGE
  )
  count = min(flags.test_images, len(held_out.reported))
  dataset = _dataset_name(trained.config.data.name)
  with tempfile.TemporaryDirectory() as temporary:
    graphs = pathlib.Path(temporary) / 'graphs'
    _write_onnx(graphs, trained, flags, known)
    folder.write(
      output,
      graphs,
      brought,
      title=f'{trained.config.model.label} on {dataset}',
      points=[_to_ship(each) for each in offered.points],
      current=offered.current or 0,
      examples=folder.Examples(
        [held_out.images[index] for index in range(count)],
        held_out.reported.labels[:count],
        f'The first of those in {dataset} that had no part in choosing the operating point.',
      ),
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


_WRITE = {
  'onion': _write_onion,
  'onnx': _write_onnx,
  'stablehlo': _write_stablehlo,
  'web': _write_web,
}
# More than anyone tells apart on a slider.
_POINTS_OF_A_PAGE = 60


if __name__ == '__main__':
  run(define_flags, main)
