# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: -all
#     formats: ipynb,py:percent
#     notebook_metadata_filter: jupytext,kernelspec,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Deploy: a network that grows over the wire
#
# A device fetches 44 kB and runs at 2 bits. When it has time, it fetches the next ring, and so on
# up to 16 bits: nothing is sent twice, and what the lower precisions answered stays as it was, bit
# for bit. Then the same network leaves JAX, and labels images with ONNX Runtime alone. A minute on
# two cores; the network comes with the library, its test images with scikit-learn.

# %%
# Installs the library if it is missing: what DPOQ_JAX names (a wheel, a folder, an address), else
# a wheel in this folder (on Colab upload it first, under Files), else SOURCE.
import importlib.util
import os
import pathlib
import sys

SOURCE = '..'
if importlib.util.find_spec('dpoq_jax') is None:
  wheels = sorted(map(str, pathlib.Path().glob('dpoq_jax-*.whl')))
  source = os.environ.get('DPOQ_JAX') or (wheels[-1] if wheels else SOURCE)
  # %pip install --quiet {source}
# The command `dpoq` is beside the Python of this kernel; it writes plain lines of 100 columns.
os.environ['PATH'] = f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}'
os.environ |= {'COLUMNS': '100', 'FORCE_COLOR': ''}

# %%
import functools
import http.server
import json
import shutil
import threading
import urllib.request

from matplotlib import pyplot as plt
import numpy as np

import dpoq_jax
from dpoq_jax import pretrained
from dpoq_jax.data import in_memory
from dpoq_jax.deploy.artifact import in_jax, rings

shipped = pretrained.folder('digits_resnet8')
test = in_memory.load('digits', 'test')
os.environ['SHIPPED'] = str(shipped)

# %% [markdown]
# ## What ships
#
# A manifest and a file for each ring. `dpoq export --workdir=RUN --output=FOLDER` writes such a
# folder of a run of yours; put its path in place of `shipped`.

# %% language="bash"
# dpoq inspect $SHIPPED

# %% [markdown]
# ## Ring by ring
#
# A server with the folder, any that serves files, and a device that counts what it receives.


# %%
class Quiet(http.server.SimpleHTTPRequestHandler):
  def log_message(self, *_):  # without a line for each request
    pass


server = http.server.ThreadingHTTPServer(
  ('localhost', 0), functools.partial(Quiet, directory=str(shipped))
)
threading.Thread(target=server.serve_forever, daemon=True).start()

device = pathlib.Path('device')
shutil.rmtree(device, ignore_errors=True)
device.mkdir()


def fetch(name):
  """Downloads a file to the device; returns its bytes."""
  url = f'http://localhost:{server.server_address[1]}/{name}'
  return (device / name).write_bytes(urllib.request.urlopen(url).read())


# %% [markdown]
# `load` reads the rings that are there, `upgrade` the next one, in place; both check a file's
# digest before anything of it is used. The manifest is received with the first ring.

# %%
received = fetch('manifest.json') + fetch('ring_2.safetensors')
held = rings.load(device, max_bits=2)
names = [ring.file for ring in held.manifest.rings[1:]]

sizes, accuracies, before = [], [], None
print('bits   received, B   in all, B    top-1')
for name in [None, *names]:
  more = received
  if name:
    more = fetch(name)
    received += more
    held.upgrade()
  logits = np.asarray(in_jax.network_of(held).apply(held.variables, test.images))
  # The precisions that were there answer as before, to the last bit.
  assert before is None or np.array_equal(logits[:-1], before)
  before = logits
  sizes.append(received)
  accuracies.append(np.mean(logits[-1].argmax(axis=-1) == test.labels))
  print(f'{held.bits[-1]:4} {more:13,} {received:11,} {accuracies[-1]:8.1%}')
server.shutdown()

# %%
figure, axes = plt.subplots(figsize=(6, 2.8), layout='constrained')
axes.step([size / 1000 for size in sizes], [100 * top1 for top1 in accuracies], 'o-', where='post')
for b, size, top1 in zip(held.bits, sizes, accuracies, strict=True):
  axes.annotate(f'{b} bits', (size / 1000, 100 * top1), (6, -12), textcoords='offset points')
axes.set(xlabel='received, kB', ylabel='top-1 on test images, %')
plt.show()

# %% [markdown]
# One test image is 0.28 points: above 4 bits the digits have nothing more to gain. An artifact
# keeps its operating point, so a device with the first two rings already has a cascade of two
# precisions:

# %%
classifier = dpoq_jax.load(device, max_bits=4)
print(classifier)
result = classifier(test.images)
print(result, f'top-1 {np.mean(result.labels == test.labels):.1%}')

# %% [markdown]
# ## Without JAX: the cascade in ONNX Runtime
#
# Of a run, `dpoq export --format=onnx --workdir=RUN --output=FOLDER` writes the folder; of an
# artifact that was exported with `--calibration-images`, `--artifact=FOLDER` in place of the run.
# This does it by hand, with ranges of activations that are measured on training images.

# %%
from dpoq_jax.deploy.onnx import export, source

folder = pathlib.Path('shipped_onnx')
shutil.rmtree(folder, ignore_errors=True)
whole = dpoq_jax.load(device)
manifest = export.write(
  folder,
  source.prepare(whole.network, whole.variables, in_memory.load('digits', 'train').images[:512]),
  class_names=whole.class_names,
  operating_points=[json.loads(whole.operating_point.to_json())],
)
print('\n'.join(sorted(str(path) for path in folder.rglob('*') if path.is_file())))

# %% [markdown]
# On the device the folder needs NumPy and ONNX Runtime, nothing of this library. `path_B.onnx` are
# the steps of the cascade, which hand their features up; `precision_B.onnx` one precision in one
# graph.

# %%
if importlib.util.find_spec('onnxruntime') is None:
  # %pip install --quiet onnxruntime
  pass
os.environ['PYTHON'] = sys.executable
np.save('images.npy', test.images)

# %% language="bash"
# cd shipped_onnx
# $PYTHON predict.py ../images.npy --output=../labels.csv | head -n 5
# $PYTHON predict.py ../images.npy --max-bits=2 | head -n 2

# %%
import csv

with pathlib.Path('labels.csv').open() as file:
  rows = list(csv.DictReader(file))
labels = np.array([int(row['label']) for row in rows])
exits = np.array([int(row['precision']) for row in rows])
labels_in_jax = whole(test.images).labels

print(
  f'top-1 of the cascade: {np.mean(labels == test.labels):.1%}, '
  f'labels equal to those in JAX: {np.mean(labels == labels_in_jax):.1%}'
)
for b in whole.bits:
  print(f'left at {b:2} bits: {np.mean(exits == b):6.1%}')

# %% [markdown]
# Graphs compute in int8, so a label may differ where two classes are close. As files they are
# larger than the rings, a byte or more for each weight: send rings, run graphs.
#
# Next: [ONNX in detail](../docs/onnx.md), other tools among it;
# [how fast it is](../docs/faq.md#where-does-it-get-faster-and-where-not), and where it is not.
