"""Tests of `dpoq_jax.data.corrupt_records`; `test_streamed` meets records that are corrupt."""

import pytest

from dpoq_jax.data import corrupt_records


@pytest.mark.parametrize(
  ('position', 'length', 'expected'), [(0, 3, [0, 1, 2]), (2, 4, [2, 3, 0, 1]), (0, 1, [0])]
)
def test_the_places_of_corrupt_records_go_to_the_next_ones_and_round_the_end(
  position, length, expected
):
  assert list(corrupt_records.positions_to_try(position, length)) == expected


def test_a_record_is_counted_and_warned_of_once():
  tally = corrupt_records.Tally(1)
  record = corrupt_records.CorruptRecord('train record 7', 'hash mismatch')
  with pytest.warns(UserWarning, match='skipping corrupt record train record 7: hash mismatch'):
    tally.note(record)
  # Not warned of again: a warning would be an error here.
  tally.note(record)
  assert tally.records == {'train record 7': 'hash mismatch'}
  with pytest.raises(corrupt_records.CorruptRecordsError, match=r'^2 corrupt records, more than'):
    tally.note(corrupt_records.CorruptRecord('train record 8', 'truncated'))
