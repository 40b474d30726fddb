"""The default config with other fields, not validated."""

from dpoq_jax import config as config_lib


def changed(**fields):
  config = config_lib.get_config()
  config.unlock()
  config.update_from_flattened_dict({name.replace('__', '.'): v for name, v in fields.items()})
  return config
