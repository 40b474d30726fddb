"""The data set of the tests of streamed sets, as they load it."""

import pathlib

from dpoq_jax.data import corrupt_records, streamed

NAME = 'tiny_imagenet'
OPTIONS = streamed.Options(image_size=32, resize=36)


def load(
  data_dir: pathlib.Path, split: str | None = 'train', *, workers: int = 0, max_corrupt: int = 0
) -> streamed.StreamedSet:
  options = streamed.Options(OPTIONS.image_size, OPTIONS.resize, workers)
  return streamed.load(NAME, split, data_dir, options, corrupt_records.Tally(max_corrupt))
