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


def of(
  config: config_lib.Config, facts: workdir_lib.DatasetFacts, counts: Mapping[str, int]
) -> dict[str, Any]:
  """Returns the part of a checkpoint's JSON object that says which run it is of.

  Args:
    config: config of the run.
    facts: facts of its data set.
    counts: numbers of its examples, as `Experiment.example_counts` has them.
  """
  return {
    'config': config.model_dump(mode='json'),
    'dataset': {'image_shape': facts.image_shape, 'class_names': facts.class_names},
    'examples': dict(counts),
  }


def check(meta: Mapping[str, Any], workdir: pathlib.Path) -> None:
  """Checks that a checkpoint is of the run in `workdir`, as its files have it.

  Args:
    meta: JSON object of the checkpoint; those of earlier versions do not tell, and pass.
    workdir: directory of the run.

  Raises:
    CheckpointError: if it is of another run.
  """
  if 'config' not in meta:
    return
  config, facts = workdir_lib.read_config(workdir), workdir_lib.read_dataset(workdir)
  if changed := _changed(meta, config, facts):
    raise CheckpointError(
      f'the checkpoints in {workdir} are of another run than its {workdir_lib.CONFIG_FILE} and '
      f'{workdir_lib.DATASET_FILE} ({"; ".join(changed)[:500]}): put these back as they were.'
    )


def check_resumed(
  meta: Mapping[str, Any],
  workdir: pathlib.Path,
  config: config_lib.Config,
  facts: workdir_lib.DatasetFacts,
  counts: Mapping[str, int],
) -> None:
  """Checks that a run which goes on from a checkpoint is the one that saved it, on the same data.

  Of other numbers of examples the steps that are left would begin in the midst of another order.

  Args:
    meta: JSON object of the checkpoint; those of earlier versions tell less, or nothing.
    workdir: directory of the run.
    config: config that the run goes on with.
    facts: facts of the data set that it goes on with.
    counts: numbers of examples of that, as `of` takes them.

  Raises:
    CheckpointError: if it is not.
  """
  if 'config' not in meta:
    return
  noted = meta.get('examples', counts)
  changed = _changed(meta, config, facts)
  changed += [
    f'{name}: {noted[name]} -> {counts[name]}' for name in counts if noted[name] != counts[name]
  ]
  if changed:
    raise CheckpointError(
      f'the run in {workdir} was trained otherwise, or on other data '
      f'({"; ".join(changed)[:500]}): give config.data.dir where those are, or another --workdir.'
    )


def _changed(
  meta: Mapping[str, Any], config: config_lib.Config, facts: workdir_lib.DatasetFacts
) -> list[str]:
  """Lists in what a config and a data set differ from those that a checkpoint notes."""
  theirs = config_lib.from_json(json.dumps(meta['config']))
  changed = config_lib.differences(theirs, config, apart=workdir_lib.MAY_CHANGE_ON_RESUME)
  ours = {'image_shape': facts.image_shape, 'class_names': facts.class_names}
  noted = {name: tuple(value) for name, value in meta['dataset'].items()}
  return changed + [
    f'{name}: {noted[name]} -> {ours[name]}' for name in ours if noted[name] != ours[name]
  ]
