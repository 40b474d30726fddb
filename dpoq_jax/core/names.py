"""Names the places at which the variables of a network are found.

    params       {path_B: {..., shift_from_A}}   the parameters of the path of B bits
                 {companion_B_W: ...}            what a companion of it has for itself, in training
    psbn_B       running statistics of precision B, written in training
    lateral_B    what path B hands up, per layer: read by higher paths, written by path B
    onion        once frozen: the integers shared by all precisions

Free of JAX and Flax: artifacts and exports find variables by the same names.
"""

ONION = 'onion'
"""Collection of the shared integers of a frozen network."""


LOGIT_SCALE = 'logit_scale'
"""Parameter of a path: factor on the logits of the path below, where they are added to its own."""


def path_name(precision: int) -> str:
  """Returns the name of a path's subtree in `params`.

  >>> path_name(4)
  'path_4'
  """
  return f'path_{precision}'


def companion_name(precision: int, width: int) -> str:
  """Returns the name in `params` of what a companion of a path has for itself.

  >>> companion_name(2, width=8)
  'companion_2_8'
  """
  return f'companion_{precision}_{width}'


def is_companion(name: str, precision: int) -> bool:
  """Tells whether a subtree of `params` is what a companion of this path has for itself.

  >>> is_companion('companion_2_8', precision=2)
  True
  """
  return name.startswith(f'companion_{precision}_')


def statistics_collection(precision: int) -> str:
  """Returns the name of the collection of a precision's running statistics.

  >>> statistics_collection(4)
  'psbn_4'
  """
  return f'psbn_{precision}'


def lateral_collection(precision: int) -> str:
  """Returns the name of the collection of what the path of a precision hands up.

  >>> lateral_collection(4)
  'lateral_4'
  """
  return f'lateral_{precision}'


def shift_name(lower: int) -> str:
  """Returns the name of the precision shift gamma_{j->k} from a lower precision, in a `norm`.

  >>> shift_name(2)
  'shift_from_2'
  """
  return f'{SHIFT_PREFIX}{lower}'


SHIFT_PREFIX = 'shift_from_'
"""What the names of all precision shifts begin with."""
