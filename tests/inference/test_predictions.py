import csv
import io
import json

import numpy as np
import pytest

from dpoq_jax.data.to_predict import Input
from dpoq_jax.inference import cascade, predictions


class Scripted(cascade.Cascade):
  """Gives the results of a stream late, as pooling does."""

  def __init__(self, delay):
    self.delay = delay

  def stream(self, batches, *, operating_point=None, max_precision=None):
    waiting = []
    for images in batches:
      waiting.append(images[:, 0, 0, 0].astype(int))
      while len(waiting) > self.delay:
        yield self.result(waiting.pop(0))
    yield from map(self.result, waiting)

  @staticmethod
  def result(labels):
    probabilities = np.eye(3)[labels] * 0.5 + 1 / 6
    precisions = np.where(labels > 0, 4, 2)
    return cascade.Result(labels, probabilities, precisions, precisions / 2)


def inputs_of(*labels):
  return tuple(
    Input(f'{i}.png', None, 'broken') if label is None
    else Input(f'{i}.png', np.full((1, 1, 1), label, np.uint8))
    for i, label in enumerate(labels)
  )  # fmt: skip


@pytest.mark.parametrize('delay', [0, 1, 5])
@pytest.mark.parametrize(
  'batches', [[(0, None, 1), (2,)], [(None,), (None, None), (1,), (None,)], [(None,)], [(1,), (2,)]]
)
def test_a_prediction_per_input_in_order(delay, batches):
  given = [inputs_of(*batch) for batch in batches]
  found = list(predictions.predict(Scripted(delay), iter(given), ['a', 'b', 'c']))
  expected = [label for batch in batches for label in batch]
  assert [each.label for each in found] == expected
  assert [each.input for each in found] == [input_.name for batch in given for input_ in batch]
  for each in found:
    if each.label is None:
      assert each == predictions.Prediction(each.input, error='broken')
    else:
      assert each.class_name == 'abc'[each.label]
      assert each.probability == pytest.approx(2 / 3)
      assert (each.precision, each.relative_cost) == ((2, 1.0) if each.label == 0 else (4, 2.0))


def test_bad_arguments_are_refused_before_anything_is_read():
  class Refuses(Scripted):
    def stream(self, batches, *, operating_point=None, max_precision=None):
      raise ValueError(f'precision {max_precision}')

  batches = iter([inputs_of(0)])
  with pytest.raises(ValueError, match='precision 3'):
    predictions.predict(Refuses(0), batches, ['a'], max_precision=3)
  assert len(list(batches)) == 1


def test_formats():
  written = [
    predictions.Prediction('a,"b".png', 1, 'b', 0.5, 4, 2.0),
    predictions.Prediction('c.png', error='bro\nken'),
  ]
  file = io.StringIO()
  writer = predictions.CsvWriter(file)
  for each in written:
    writer.write(each)
  assert file.getvalue() == (
    '"input","label","class_name","probability","precision","relative_cost","error"\n'
    '"a,""b"".png","1","b","0.5000","4","2.0000",""\n'
    '"c.png","","","","","","bro\nken"\n'
  )
  file = io.StringIO()
  writer = predictions.JsonLinesWriter(file)
  for each in written:
    writer.write(each)
  lines = [json.loads(line) for line in file.getvalue().splitlines()]
  assert [predictions.Prediction(**{**line, 'others': ()}) for line in lines] == written


def test_the_next_classes_have_columns_of_their_own():
  others = (('c', 0.3), ('=d', 0.2))
  file = io.StringIO()
  writer = predictions.CsvWriter(file, top=3)
  writer.write(predictions.Prediction('a', 1, 'b', 0.5, 4, 2.0, None, others))
  writer.write(predictions.Prediction('x', error='broken'))
  first, second = csv.DictReader(io.StringIO(file.getvalue()))
  assert (first['class_name_2'], first['probability_2']) == ('c', '0.3000')
  assert (first['class_name_3'], first['probability_3']) == ("'=d", '0.2000')
  assert (second['class_name_3'], second['error']) == ('', 'broken')


@pytest.mark.parametrize('name', ['a\rb.png', 'a\nb.png', 'a\r\nb.png', '"', ',', "'=1", '', 'ö\0'])
def test_any_name_is_one_cell_of_one_row(name):
  file = io.StringIO(newline='')
  writer = predictions.CsvWriter(file)
  for each in (name, 'next.png'):
    writer.write(predictions.Prediction(each, 1, 'b', 0.5, 4, 2.0))
  rows = list(csv.DictReader(io.StringIO(file.getvalue(), newline='')))
  assert [row['input'] for row in rows] == [name, 'next.png']
  assert {row['label'] for row in rows} == {'1'}


@pytest.mark.parametrize('start', ['=', '+', '-', '@', '\t', '\r', '\n'])
def test_no_cell_is_a_formula(start):
  file = io.StringIO(newline='')
  writer = predictions.CsvWriter(file, header=False)
  text = f'{start}cmd|calc!A1'
  writer.write(predictions.Prediction(text, 1, text, 0.12344, 4, 2.0, text))
  ((name, label, class_name, probability, _, _, error),) = csv.reader(
    io.StringIO(file.getvalue(), newline='')
  )
  assert name == class_name == error == f"'{text}"
  # Numbers stay numbers.
  assert (label, float(probability)) == ('1', 0.1234)
