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
# # CIFAR-10 on a GPU
#
# One ResNet-8 at 2, 4 and 8 bits, trained on CIFAR-10 for four epochs by the recipe, beside what
# this project committed for the same config; then inputs that leave early. On Colab choose a GPU
# first (Runtime, Change runtime type). It takes 1,560 steps; an H200 took 4.7 ms for one without
# the recipe's companions, a free GPU was not timed, and two CPU cores take 25 to 50 minutes.

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
import shutil

# What JAX needs for NVIDIA GPUs, of the version that the library came with.
if shutil.which('nvidia-smi'):
  # %pip install --quiet "jax[cuda12]>=0.10"
  pass

# %%
from IPython.display import Image, display
import jax
from matplotlib import pyplot as plt
import numpy as np

# With DPOQ_SHORT=1 in the environment a smaller network is trained on scikit-learn's digits, to see
# that all of this runs without a GPU and without a download.
SHORT = os.environ.get('DPOQ_SHORT') == '1'
digits = (
  '--config.data.name=digits --config.model.width=8 --config.epochs=8',
  '--config.quantization.bits=2,4 --config.objective.companion_rings=1',
  '--config.objective.companion_bits=()',
)
os.environ['DATA'] = ' '.join(digits) if SHORT else '--config.data.dir=data'
print(jax.devices())

# %% [markdown]
# ## Data
#
# 170 MB from its authors' page, checked, and written in a standard form. Batches that are at hand
# are taken with `--source=FOLDER`. Done already, it says so.

# %% language="bash"
# [ "$DPOQ_SHORT" = 1 ] || dpoq prepare cifar10 --data-dir=data

# %% [markdown]
# ## Train
#
# All precisions at once. Stopped, the same cell goes on; finished, it says so. `dpoq train --help`
# lists what else can be set, `--dry-run` measures what it takes on this machine.

# %% language="bash"
# dpoq train --config=cifar10_resnet8_cpu_plus $DATA --workdir=runs/cifar10

# %% [markdown]
# ## Beside the committed results
#
# *Committed* is the mean of three seeds on two CPU cores, ± their standard deviation
# (`results/cpu/ABLATION.csv`, "onion, the recipe"); *in the wheel* the network that comes with
# the library, which is one of them. Another machine moved a figure by up to 1.5 points.

# %%
import dpoq_jax

COMMITTED = {2: (72.86, 0.27), 4: (75.39, 0.43), 8: (76.87, 0.27)}
classifier = dpoq_jax.load('runs/cifar10')
bundled = dpoq_jax.load_pretrained('cifar10_resnet8')

print('bits     here      committed   in the wheel')
for b, top1 in classifier.top1.items():
  mean, deviation = COMMITTED[b]
  print(f'{b:4} {100 * top1:8.2f}   {mean:.2f} ± {deviation:.2f} {100 * bundled.top1[b]:14.2f}')
if SHORT:
  print('"here" is of digits: not to be compared.')

# %% [markdown]
# ## Choose when an input may leave
#
# The cheapest thresholds that lose at most one point to the highest precision: chosen on half of
# the test images, reported on the other half. `--confidence=0.9` would promise it for new images.

# %% language="bash"
# dpoq calibrate --workdir=runs/cifar10 --max-accuracy-drop=0.01

# %% [markdown]
# The report draws it: the training, what can be had at which average of bits (the star is the point
# chosen), and how many inputs leave where. `runs/cifar10/report/report.html` has more, and a
# slider.

# %% language="bash"
# dpoq report --workdir=runs/cifar10

# %%
for name in ('training', 'rerun_curves', 'exits'):
  display(Image(f'runs/cifar10/report/{name}.png', width=640))

# %% [markdown]
# ## The cascade
#
# The half of the test images that had no part in choosing, each at as many bits as it needs; then
# with a cap, as if the battery were low: same network, same thresholds, nothing is compiled for it.

# %%
from dpoq_jax import from_run

workdir = pathlib.Path('runs/cifar10')
classifier = dpoq_jax.load(workdir)
held_out = from_run.held_out(from_run.open_network(workdir))
labels = held_out.reported.labels

print('cap       top-1   average bits   relative cost')
for cap in reversed(classifier.bits):
  result = classifier(held_out.images, max_precision=cap)
  print(f'{cap} bits {np.mean(result.labels == labels):8.2%}', end='')
  print(f'{result.precisions.mean():15.2f}{result.cost.mean():16.2f}')

# %%
result = classifier(held_out.images)
late = np.argsort(-result.precisions, kind='stable')[:8]
early = np.flatnonzero(result.precisions == classifier.bits[0])[:8]
figure, rows = plt.subplots(2, 8, figsize=(10, 3), layout='constrained')
for row, chosen in zip(rows, (early, late), strict=True):
  for ax, index in zip(row, chosen, strict=False):
    ax.imshow(held_out.images[index].squeeze(), cmap='gray_r')
    right = result.labels[index] == labels[index]
    name = classifier.class_names[result.labels[index]]
    ax.set_title(f'{name}\n{result.precisions[index]} bits', size=9, color='k' if right else 'r')
  for ax in row:
    ax.axis('off')
plt.show()

# %% [markdown]
# Relative cost counts BitOPs: what hardware with narrow multipliers would pay. GPUs compute all of
# it in float, and gain nothing from few bits ([where it gets
# faster](../docs/faq.md#where-does-it-get-faster-and-where-not)).
#
# Next: a ResNet-20, which had 86.98 / 88.91 / 89.44 % after twenty epochs (`results/gpu/long`, one
# seed): the same config with `--config.model.depth=20 --config.epochs=20`; your own pictures:
# [your_own_images](your_own_images.ipynb); to devices, [deploy](deploy.ipynb).
