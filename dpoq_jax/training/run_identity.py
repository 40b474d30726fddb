"""Ties a checkpoint to its run: what it was trained by is noted in it, and compared on reading.

The arrays of a checkpoint fit many networks. Read by a `config.json` or `dataset.json` that another
run wrote, or that was damaged, they would label images with garbage and say nothing.
"""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

from dpoq_jax import config as config_lib
from dpoq_jax.runtime import workdir as workdir_lib
from dpoq_jax.training.checkpoint import CheckpointError


def of(config: config_lib.Config, facts: workdir_lib.DatasetFacts) -> dict[str, Any]:
  """Returns the part of a checkpoint's JSON object that says which run it is of."""
  return {
    'config': config.model_dump(mode='json'),
    'dataset': {'image_shape': facts.image_shape, 'class_names': facts.class_names},
  }


def check(meta: Mapping[str, Any], workdir: pathlib.Path) -> None:
  """Checks that a checkpoint is of the run in `workdir`.

  Args:
    meta: JSON object of the checkpoint; those of earlier versions do not tell, and pass.
    workdir: directory of the run.

  Raises:
    CheckpointError: if it is of another run.
  """
  if 'config' not in meta:
    return
  config, facts = workdir_lib.read_config(workdir), workdir_lib.read_dataset(workdir)
  theirs = config_lib.from_json(json.dumps(meta['config']))
  changed = config_lib.differences(theirs, config, apart=workdir_lib.MAY_CHANGE_ON_RESUME)
  ours = of(config, facts)['dataset']
  noted = {name: tuple(value) for name, value in meta['dataset'].items()}
  changed += [
    f'{name}: {noted[name]} -> {ours[name]}' for name in ours if noted[name] != ours[name]
  ]
  if changed:
    raise CheckpointError(
      f'the checkpoints in {workdir} are of another run than its {workdir_lib.CONFIG_FILE} and '
      f'{workdir_lib.DATASET_FILE} ({"; ".join(changed)[:500]}): put these back as they were.'
    )
