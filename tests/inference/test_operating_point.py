"""Tests of `dpoq_jax.inference.operating_point`: points of fewer paths, and files of points."""

import pathlib

import numpy as np
import pytest

from dpoq_jax.inference import operating_point
from dpoq_jax.inference.operating_point import OperatingPoint
from dpoq_jax.inference.records import Outcome, Provenance, Target

BITS = (2, 4, 8)
WHOLE = OperatingPoint(
  bits=BITS,
  bitops=(3, 7, 20),
  order='confidence_first',
  key=0.75,
  precision=4,
  thresholds={2: 0.9, 4: 0.8, 8: 0.0},
  combine='weighted',
  weights={2: (1.0,), 4: (0.25, 0.75), 8: (0.2, 0.3, 0.5)},
  temperatures={2: 1.5, 4: 1.25, 8: 2.0},
  target=Target(kind='average_bits', value=3.0),
  expected=Outcome(examples=1, accuracy=1.0, average_bits=2.0, relative_cost=1.0, exits={2: 1.0}),
  data=Provenance(dataset='made up', step=7, calibration='these', reported='those'),
)


def test_the_point_of_the_lowest_paths_is_what_is_left_and_of_unknown_worth():
  assert WHOLE.lowest(3) is WHOLE
  assert WHOLE.lowest(2) == OperatingPoint(
    bits=(2, 4),
    bitops=(3, 7),
    order='confidence_first',
    key=0.75,
    # What is left of the network is sure enough for every input.
    thresholds={2: 0.9, 4: 0.0},
    combine='weighted',
    weights={2: (1.0,), 4: (0.25, 0.75)},
    temperatures={2: 1.5, 4: 1.25},
    data=WHOLE.data,
  )
  assert WHOLE.lowest(1).thresholds == {2: 0.0}


@pytest.mark.parametrize('met', [True, False])
def test_a_file_tells_whether_its_target_was_met(tmp_path: pathlib.Path, met: bool):
  path = tmp_path / operating_point.FILE
  assert not operating_point.is_met(path)
  path.write_text(WHOLE.model_copy(update={'met': met}).to_json())
  assert operating_point.is_met(path) == met
  path.write_text('{')
  assert not operating_point.is_met(path)


def test_an_input_leaves_from_its_threshold_on_and_at_the_highest_precision_in_any_case():
  below = np.nextafter(0.9, 0)
  np.testing.assert_array_equal(WHOLE.leaving(0, np.array([below, 0.9, 1.0])), [False, True, True])
  np.testing.assert_array_equal(WHOLE.leaving(2, np.array([0.0, np.nan])), [True, True])
