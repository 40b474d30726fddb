"""Writes a trained network as files for devices.

    dpoq export --workdir=DIR|--artifact=FOLDER|--pretrained=NAME --output=FOLDER
        [--format=onion|onnx|stablehlo|web] [--operating-point=FILE] [--step=N|best]
        [--calibration-images=512] [--data-dir=D] [--runtime=DIR] [--test-images=24]

`onion`: a manifest and one file per ring, of which a device holds as many as it has room for. With
--calibration-images it also keeps the ranges of activations, so that `onnx` and `web` can be made
of it where there is no data set.
`onnx`: a graph per path, one per precision, one of the whole cascade, which stops by itself, and a
`predict.py` that needs NumPy and ONNX Runtime alone; ranges of activations are chosen on training
images. Beside them are graphs and settings in the layout that optimum and transformers.js read
(docs/onnx.md).
`stablehlo`: the same graphs for JAX and other readers of StableHLO, on CPU, CUDA and TPU.
`web`: a page for any static server, which runs the ONNX graphs of the paths as they arrive. Its
runtime, onnxruntime-web, is brought by npm, or read from a folder that has it. A few images of the
test split go with it, as PNG: with --test-images=0 none.

The network is that of a run, of an artifact or one that comes with the library. The operating point
that is kept with it goes with it, if there is one, or another file's.

    dpoq export --pretrained=cifar10_resnet20 --output=shipped --format=onnx
    dpoq export --workdir=runs/digits --output=shipped_digits
"""

from collections.abc import Mapping
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
  from dpoq_jax.deploy.artifact.manifest import Ranges
  from dpoq_jax.deploy.onnx.source import Source
  from dpoq_jax.inference.operating_point import OperatingPoint
  from dpoq_jax.network.onion_network import Onion
  from dpoq_jax.training.trained_network import Trained


# Flags that say nothing to other formats, or of what is no run.
_ONLY_WITH = {
  'calibration_images': ('onnx', 'web', 'onion'),
  'runtime': ('web',),
  'test_images': ('web',),
}
_OF_A_RUN = ('step', 'data_dir', 'calibration_images', 'test_images')
# More than anyone tells apart on a slider.
_POINTS_OF_A_PAGE = 60


def define_flags(flags: shared.FlagValues) -> None:
  """Defines the flags of the command."""
  shared.define_network(flags)
  shared.define_output(flags, 'folder to write; must not hold anything')
  shared.define_operating_point(flags)
  shared.define_step(flags)
  shared.define_data_dir(flags)
  shared.DEFINE_enum('format', 'onion', list(_WRITE), 'kind of files', flag_values=flags)
  shared.DEFINE_integer(
    'calibration_images', 512,
    'training images that ranges are chosen on; of --format=onion, which has ranges only if this '
    'is given', flag_values=flags,
  )  # fmt: skip
  shared.define_path('runtime', 'folder with onnxruntime-web, for --format=web without npm', flags)
  shared.DEFINE_integer(
    'test_images', 24, 'test images that go with --format=web', lower_bound=0, flag_values=flags
  )


@dataclasses.dataclass(frozen=True, eq=False)
class _Exported:
  """Holds a network that is written, and what is known of it.

  Attributes:
    network: the network.
    variables: its variables, frozen, NumPy arrays.
    label: name of the model.
    image_shape: (height, width, channels).
    class_names: a name for each class.
    resize: shorter side to which pictures are resized, pixels; None resizes to `image_shape`.
    source: data set and step that the network comes from, as manifests have them.
    point: the operating point that goes with it, if any.
    trained: the run, with its data; None of an artifact.
    ranges: what an artifact keeps for graphs of integers, if it does.
  """

  network: 'Onion'
  variables: Mapping[str, Any]
  label: str
  image_shape: tuple[int, int, int]
  class_names: tuple[str, ...]
  resize: int | None
  source: Mapping[str, Any]
  point: 'OperatingPoint | None'
  trained: 'Trained[Onion] | None' = None
  ranges: 'Ranges | None' = None

  @property
  def of_manifests(self) -> dict[str, Any]:
    """Returns what all manifests have."""
    return {
      'class_names': self.class_names,
      'operating_points': (_to_ship(self.point),) if self.point else (),
      'source': self.source,
    }


def main(flags: shared.FlagValues) -> None:
  """Writes the files of a trained network."""
  output = shared.required_path(flags, 'output')
  with user_errors(data_flag=shared.DATA_DIR):
    folder = shared.network_folder(flags)
    _check_of_use(flags)
    # Imported once there is something to do, since JAX takes seconds.
    from dpoq_jax.deploy import export_folder

    exported = _of_run(folder, flags) if flags.workdir else _of_artifact(folder, flags)
    if exported.point and not exported.point.met:
      warn('this operating point did not meet its target when it was chosen.')
    with export_folder.emptied_on_failure(output):
      _WRITE[flags.format](output, exported, flags)
  Console().print(f'written to {output}', soft_wrap=True)


def _check_of_use(flags: shared.FlagValues) -> None:
  """Refuses flags that the format, or an artifact, has no use for."""
  for name, formats in _ONLY_WITH.items():
    if flags[name].present and flags.format not in formats:
      raise ValueError(
        f'--{name.replace("_", "-")} is of no use with --format={flags.format}: it is for '
        f'{" and ".join(formats)}.'
      )
  if flags.workdir:
    return
  if flags.format == 'onion':
    raise ValueError(
      'an artifact has the format onion already: copy its folder, or give another --format.'
    )
  for name in _OF_A_RUN:
    if flags[name].present:
      raise ValueError(
        f'--{name.replace("_", "-")} is of no use without --workdir: an artifact has no '
        'checkpoints and no data.'
      )


def _of_run(workdir: pathlib.Path, flags: shared.FlagValues) -> _Exported:
  """Opens the network of a run, at the checkpoint of its operating point."""
  import jax

  from dpoq_jax import from_run
  from dpoq_jax.inference.records import dataset_name

  point = from_run.read_operating_point(workdir, shared.optional_path(flags, 'operating_point'))
  trained = from_run.open_network(workdir, shared.checkpoint_step(flags), point)
  if point and point.data and point.data.step != trained.step:
    warn(f'the operating point was chosen at step {point.data.step}, not {trained.step}.')
  trained = trained.with_data_in(flags.data_dir)
  return _Exported(
    trained.network,
    jax.device_get(trained.variables),
    trained.config.model.label,
    trained.facts.image_shape,
    trained.facts.class_names,
    trained.config.data.resize,
    {'dataset': dataset_name(trained.config.data.name), 'step': trained.step},
    point,
    trained=trained,
  )


def _of_artifact(folder: pathlib.Path, flags: shared.FlagValues) -> _Exported:
  """Opens the network of an artifact."""
  from dpoq_jax import classifier
  from dpoq_jax.deploy.artifact import manifest as manifest_lib
  from dpoq_jax.inference import operating_point

  given = shared.optional_path(flags, 'operating_point')
  manifest = manifest_lib.read(folder)
  opened = classifier.load(folder, point=operating_point.read(given) if given else None)
  return _Exported(
    opened.network,
    opened.variables,
    manifest.model.label,
    opened.image_shape,
    opened.class_names,
    opened.resize,
    manifest.source.model_dump(),
    opened.operating_point,
    ranges=manifest.ranges,
  )


def _prepared(exported: _Exported, flags: shared.FlagValues) -> 'Source':
  """Returns what the ONNX graphs are made from; measures ranges, unless an artifact has them."""
  from dpoq_jax.deploy.onnx import source

  network, variables = exported.network, exported.variables
  if exported.trained:
    images = exported.trained.training_images(flags.calibration_images)
    return source.prepare(network, variables, images)
  if exported.ranges is None:
    raise ValueError(
      'this artifact keeps no ranges of activations, without which there are no integer graphs: '
      'export its run with --format=onion --calibration-images=512, or as graphs at once.'
    )
  return source.prepare_measured(network, variables, exported.image_shape, exported.ranges)


def _write_onion(output: pathlib.Path, exported: _Exported, flags: shared.FlagValues) -> None:
  """Writes the rings."""
  from dpoq_jax.deploy.artifact import rings, table
  from dpoq_jax.deploy.artifact.manifest import BitOps
  from dpoq_jax.network import costs
  from dpoq_jax.training import metrics

  trained, shape = exported.trained, exported.image_shape
  assert trained
  cost = costs.path_cost(trained.network, shape)
  keeps_ranges = flags['calibration_images'].present
  manifest = rings.write(
    output,
    exported.variables,
    top1=metrics.top1_at(metrics.read_rows(pathlib.Path(flags.workdir)), trained.step),
    model=trained.config.model,
    quantization=trained.config.quantization,
    image_shape=shape,
    resize=exported.resize,
    multiply_accumulates=sum(c.multiply_accumulates for c in cost.convolutions),
    bitops=tuple(BitOps(**each._asdict()) for each in costs.bitops(trained.network, shape)),
    ranges=_prepared(exported, flags).measured if keeps_ranges else None,
    **exported.of_manifests,
  )
  Console().print(table.table(manifest))


def _write_onnx(output: pathlib.Path, exported: _Exported, flags: shared.FlagValues) -> None:
  """Writes the ONNX graphs."""
  from dpoq_jax.deploy.onnx import export

  prepared = _prepared(exported, flags)
  export.write(output, prepared, resize=exported.resize, **exported.of_manifests)


def _write_stablehlo(output: pathlib.Path, exported: _Exported, flags: shared.FlagValues) -> None:
  """Writes the StableHLO programs."""
  from dpoq_jax.deploy import stablehlo

  del flags
  network, variables, shape = exported.network, exported.variables, exported.image_shape
  stablehlo.write(
    output, network, variables, shape, resize=exported.resize, **exported.of_manifests
  )


def _write_web(output: pathlib.Path, exported: _Exported, flags: shared.FlagValues) -> None:
  """Writes the page."""
  from dpoq_jax.deploy.web import folder, runtime

  given = shared.optional_path(flags, 'runtime')
  brought = runtime.from_npm() if given is None else runtime.read(given)
  shown = _shown_of_run if exported.trained else _shown_of_artifact
  with tempfile.TemporaryDirectory() as temporary:
    graphs = pathlib.Path(temporary) / 'graphs'
    _write_onnx(graphs, exported, flags)
    folder.write(
      output,
      graphs,
      brought,
      title=f'{exported.label} on {exported.source["dataset"]}',
      **shown(exported, flags),
    )


def _shown_of_run(exported: _Exported, flags: shared.FlagValues) -> dict[str, Any]:
  """Returns points along the curve of a run, what they are worth, and some of its test images."""
  from dpoq_jax import from_run
  from dpoq_jax.deploy.web import folder
  from dpoq_jax.reporting import choices

  trained, point = exported.trained, exported.point
  assert trained
  seed = (point and point.data and point.data.split_seed) or 0
  held_out = from_run.held_out(trained, split_seed=seed)
  if point is None:
    point = from_run.default_operating_point(trained, held_out)
  evaluated = choices.evaluated_exits(point, held_out.calibration, held_out.reported)
  offered = choices.choices_of_order(
    point, point.order, held_out.calibration, evaluated, _POINTS_OF_A_PAGE
  )
  count = min(flags.test_images, len(held_out.reported))
  return {
    'points': [_to_ship(each) for each in offered.points],
    'current': offered.current or 0,
    'examples': folder.Examples(
      [held_out.images[index] for index in range(count)],
      held_out.reported.labels[:count],
      f'The first of those in {exported.source["dataset"]} that had no part in choosing the '
      'operating point.',
    ),
  }


def _shown_of_artifact(exported: _Exported, flags: shared.FlagValues) -> dict[str, Any]:
  """Returns operating points of rising confidence; without data none is known to be worth what."""
  from dpoq_jax.inference import operating_point
  from dpoq_jax.reporting import choices

  del flags
  bits = exported.network.bits
  point = exported.point or operating_point.static(bits, bits[-1])
  points, current = choices.choices_by_key(point)
  return {'points': [_to_ship(each) for each in points], 'current': current}


def _to_ship(point: 'OperatingPoint') -> dict[str, Any]:
  """Returns an operating point as JSON, as manifests have it."""
  from dpoq_jax.inference.records import dataset_name

  fields = json.loads(point.to_json())
  if point.data:
    fields['data']['dataset'] = dataset_name(point.data.dataset)
  return fields


_WRITE = {
  'onion': _write_onion,
  'onnx': _write_onnx,
  'stablehlo': _write_stablehlo,
  'web': _write_web,
}


if __name__ == '__main__':
  run(define_flags, main)
