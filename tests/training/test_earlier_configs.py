"""Configs that earlier versions wrote are read by this one."""

import json
from typing import Any

import pytest

from dpoq_jax import config as config_lib
from dpoq_jax.config import Quantization

# What the default config was written down as while `match_activations` was a field.
EARLIER = """{
  "seed": 0, "epochs": 30,
  "data": {
    "name": "digits", "dir": null, "test_split": null, "batch_size": 64, "image_size": null,
    "resize": 256, "workers": 0, "max_corrupt": 10, "pad": 1, "flip": false, "holdout": 0
  },
  "model": {"name": "resnet", "depth": 8, "width": 16},
  "quantization": {
    "bits": [2, 4, 8, 16], "activation_bits": 8, "weight_quantizer": "dorefa", "merge": "psbn",
    "clip_init": 6.0, "shift_init": 0.0, "compute_dtype": "float32", "sharing": "rings",
    "match_activations": false, "truncate_to": []
  },
  "objective": {"mode": "scaled", "loss_weights": [], "label_smoothing": 0.0},
  "optimizer": {
    "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.0005, "clip_learning_rate": 1.0,
    "clip_weight_decay": null, "schedule": "cosine", "decay_epochs": [], "decay_factor": 0.1,
    "warmup_epochs": 1.0
  },
  "log_every": 20, "eval_every": 2, "checkpoint_every": null, "steps_per_dispatch": null,
  "max_skipped_steps": 20, "init_from": null, "batch_statistics": "global"
}"""


@pytest.mark.parametrize(
  ('changes', 'widths', 'clip'),
  [
    ({}, 8, None),
    ({'clip_init': 5.0}, 8, 5.0),
    ({'activation_bits': 2, 'clip_init': 2.0}, 2, None),
    ({'activation_bits': 2}, 2, 6.0),
    ({'match_activations': True, 'sharing': 'rounded'}, (2, 4, 8, 16), None),
  ],
)
def test_configs_of_earlier_runs_are_read(changes: dict, widths: Any, clip: float | None):
  fields = json.loads(EARLIER)
  fields['quantization'] |= changes
  if 'sharing' in changes:
    fields['objective']['mode'] = 'joint'
  config = config_lib.from_json(json.dumps(fields))
  sharing = changes.get('sharing', 'rings')
  expected = Quantization(activation_bits=widths, clip_init=clip, sharing=sharing)
  assert config == config_lib.Config(
    quantization=expected, objective=config_lib.Objective(mode=fields['objective']['mode'])
  )
  # An artifact's manifest reads the section alone.
  assert Quantization.model_validate_json(json.dumps(fields['quantization'])) == expected
  # In a config of today it is an unknown field.
  with pytest.raises(config_lib.ConfigError, match=r'quantization\.match_activations: no su'):
    config_lib.validate({'quantization': {'match_activations': False}})
