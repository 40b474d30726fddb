"""Writes a trained network as files for devices.

    python -m dpoq_jax.export --workdir=DIR --output=FOLDER [--format=onion]
        [--operating-point=FILE] [--step=N|best]

`onion`: a manifest and one file per ring, of which a device holds as many as it has room for. The
operating point of the workdir goes with it, if there is one, or another file's.
"""

import json
import pathlib

from absl import flags
import rich.console

from dpoq_jax import cli, workdir

_WORKDIR = flags.DEFINE_string('workdir', None, 'directory of the run')
_OUTPUT = flags.DEFINE_string('output', None, 'folder to write; must not hold anything')
_FORMAT = flags.DEFINE_enum('format', 'onion', ['onion'], 'kind of files')
_POINT = flags.DEFINE_string('operating_point', None, 'file; the one in the workdir by default')
_STEP = flags.DEFINE_string('step', None, 'checkpoint, or "best"; the newest intact one by default')


def main() -> None:
  """The command."""
  directory, output = cli.required_path(_WORKDIR), cli.required_path(_OUTPUT)
  with cli.user_errors():
    config = workdir.read_config(directory)
    # Imported once there is something to do, since JAX takes seconds.
    import jax

    from dpoq_jax.deploy import artifact, listing
    from dpoq_jax.deploy.manifest import Source
    from dpoq_jax.inference import operating_point
    from dpoq_jax.training import metrics, trained

    given = pathlib.Path(_POINT.value or directory / operating_point.FILE)
    point = operating_point.read(given) if _POINT.value or given.exists() else None
    step = cli.checkpoint_step(_STEP.value)
    network = trained.load(directory, point.check(config.data.name, step) if point else step)
    manifest = artifact.write(
      output,
      jax.device_get(network.variables),
      top1=metrics.top1_at(metrics.read_rows(directory), network.step),
      model=config.model,
      quantization=config.quantization,
      class_names=network.facts.class_names,
      image_shape=network.facts.image_shape,
      operating_points=(json.loads(point.to_json()),) if point else (),
      source=Source(dataset=config.data.name, step=network.step),
    )
  console = rich.console.Console()
  console.print(listing.table(manifest))
  console.print(f'written to {output}', soft_wrap=True)


if __name__ == '__main__':
  cli.run(main)
