"""Defines the recipe: how an onion is best trained, by the ablation (`reproduce ablation`).

A config file applies it before the variant. It is a recipe for onions: its companions make shared
kernels and float networks of the same file invalid. An individual network of it is valid, and has a
companion.
"""

from typing import Any


def settings(config: Any) -> dict[str, Any]:
  """Returns the fields that the recipe sets, by name, each with its value.

  Args:
    config: config to be trained by the recipe, as a `ConfigDict` or a `Config`.
  """
  return {
    'quantization.weight_quantizer': 'standardised_per_channel',
    'objective.companion_bits': (8,),
    'objective.companion_rings': None,
    'optimizer.learning_rate': 2 * config.optimizer.learning_rate,
  }


def apply(config: Any) -> Any:
  """Changes a config, as `get_config` returns it, to the recipe; returns it."""
  config.update_from_flattened_dict(settings(config))
  return config
