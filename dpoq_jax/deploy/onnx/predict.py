"""Predicts with the ONNX graphs beside this file; needs NumPy and ONNX Runtime alone.

    python predict.py PATH... [--max-bits=B | --precision=B] [--top=N] [--batch-size=64]
        [--output=FILE.csv|FILE.npz]

PATH is a .npy file that holds uint8 [examples, height, width, channels], or, where Pillow is
installed, an image or a folder of images. By default every image runs the paths up to its exit, as
the operating point in `manifest.json` says: images one by one (--batch-size=1, or a single image)
in one graph that stops by itself, larger batches in a graph for each path. With --max-bits all
leave at B bits at the latest; with --precision all run the paths up to B bits and are predicted
from that precision alone. One line is printed for each image: its position or path, its class, the
probability of that class, and the bits of the precision at which the image left; with --top=N the
next classes and their probabilities, too. In CSV text that a spreadsheet would take for a formula
begins with an apostrophe. A file that is no image is named on stderr and left out. What cannot be
used is one line on stderr and exit status 2.
"""

import argparse
from collections.abc import Iterator, Sequence
import csv
import os
import pathlib
import sys

try:
  import numpy as np
  import onnxruntime  # noqa: F401
except ModuleNotFoundError as missing:
  if __name__ != '__main__':
    raise
  print(f'error: {missing.name} is not installed: pip install onnxruntime numpy.', file=sys.stderr)
  sys.exit(2)

if __package__:
  from dpoq_jax.deploy.onnx import image_files
  from dpoq_jax.deploy.onnx.graph_network import Network, Result
else:  # In an export, beside this file.
  from graph_network import Network, Result  # pyright: ignore[reportMissingImports]
  import image_files  # pyright: ignore[reportMissingImports]

_FORMULAS = ('=', '+', '-', '@', '\t', '\r', '\n')


def write(
  result: Result, inputs: Sequence[str], class_names: Sequence[str], path: pathlib.Path, top: int
) -> None:
  """Writes what is predicted as `.csv` or `.npz`; the file gets its name once it is whole."""
  partial = path.with_name(f'.{path.name}.{os.getpid()}.partial')
  try:
    if path.suffix == '.npz':
      with partial.open('wb') as file:
        np.savez(file, inputs=np.array(inputs), **result._asdict())
    else:
      # Letters that UTF-8 does not have stay legible.
      with partial.open('w', encoding='utf-8', errors='backslashreplace', newline='') as file:
        writer = csv.writer(file, dialect='unix')
        more = [f'{name}_{k}' for k in range(2, top + 1) for name in ('class_name', 'probability')]
        writer.writerow(('input', 'label', 'class_name', 'probability', 'precision', *more))
        for name, ranked, each, precision in _rows(result, inputs, top):
          first, *others = [(_in_csv(class_names[k]), float(each[k])) for k in ranked]
          more = [field for other in others for field in other]
          writer.writerow((_in_csv(name), ranked[0], *first, precision, *more))
    partial.replace(path)
  finally:
    partial.unlink(missing_ok=True)


def show(result: Result, inputs: Sequence[str], class_names: Sequence[str], top: int) -> None:
  """Prints a line for each image."""
  shown = [image_files.printable(name) for name in class_names]
  for name, ranked, each, precision in _rows(result, inputs, top):
    first, *others = [f'{shown[k]}\t{each[k]:.4f}' for k in ranked]
    print(image_files.printable(name), first, f'{precision} bits', *others, sep='\t')
  sys.stdout.flush()


def _rows(
  result: Result, inputs: Sequence[str], top: int
) -> Iterator[tuple[str, list[int], np.ndarray, int]]:
  """Yields of each image its name, its most probable classes, probabilities and precision."""
  for name, each, precision in zip(inputs, result.probabilities, result.precisions, strict=True):
    # Stable, so that of equal probabilities the first comes first, as in the label.
    yield name, np.argsort(-each, kind='stable')[:top].tolist(), each, int(precision)


def _in_csv(text: str) -> str:
  """Returns text with an apostrophe before what a spreadsheet would take for a formula."""
  return f"'{text}" if text.startswith(_FORMULAS) else text


def main() -> int:
  """Runs the command; returns its exit status."""
  parser = argparse.ArgumentParser(description='Predicts with the ONNX graphs beside this file.')
  parser.add_argument('images', type=pathlib.Path, nargs='+', metavar='PATH')
  parser.add_argument('--max-bits', type=int)
  parser.add_argument('--precision', type=int)
  parser.add_argument('--batch-size', type=int, default=64)
  parser.add_argument('--top', type=int, default=1)
  parser.add_argument('--output', type=pathlib.Path)
  flags = parser.parse_args()
  # A terminal may lack letters that are in the names of classes.
  sys.stdout.reconfigure(errors='backslashreplace')  # pyright: ignore
  try:
    if flags.output and flags.output.suffix not in ('.csv', '.npz'):
      raise ValueError(f'--output={flags.output}: give a file that ends in .csv or .npz.')
    if flags.output and not flags.output.parent.is_dir():
      raise ValueError(f'--output={flags.output}: there is no folder {flags.output.parent}.')
    network = Network(pathlib.Path(__file__).resolve().parent)
    names = network.manifest['class_names']
    if not 1 <= flags.top <= len(names):
      raise ValueError(f'--top={flags.top}: give a number from 1 to {len(names)}.')
    inputs: list[str] = []
    results: list[Result] = []
    shape, shorter_side = network.manifest['image_shape'], network.manifest.get('resize')
    for images in image_files.read(flags.images, shape, shorter_side):
      inputs += images.names
      if flags.precision is not None:
        found = network.predict_at(images.pixels, flags.precision, flags.batch_size)
      else:
        found = network.predict(images.pixels, max_bits=flags.max_bits, batch_size=flags.batch_size)
      results.append(found)
    result = Result(*map(np.concatenate, zip(*results, strict=True)))
    if flags.output:
      write(result, inputs, names, flags.output, flags.top)
  except (ValueError, OSError) as error:
    print('error:', image_files.printable(' '.join(str(error).split())), file=sys.stderr)
    return 2
  try:
    show(result, inputs, names, flags.top)
  except BrokenPipeError:
    # The reader of a pipe has gone, and Python would fail once more when it flushes at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  return 0


if __name__ == '__main__':
  sys.exit(main())
