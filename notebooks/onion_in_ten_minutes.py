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
# # The onion in ten minutes
#
# `dpoq_jax` trains **one** network that runs at several weight precisions. Its weights are
# integers, nested like the rings of an onion: the 2-bit weight is the two most significant bits of
# the 4-bit one, and that is the top half of the 8-bit one. Drop the low bits, and what is left is a
# smaller network. Give an input more bits, and what was computed for it so far is used again. The
# method is *dynamic precision onion quantization* ([DPOQ, ACML
# 2021](https://proceedings.mlr.press/v157/li21a.html)).
#
# From a single integer to a network that spends bits only on the inputs that need them, on
# scikit-learn's handwritten digits: nothing to download, a minute or two on two CPU cores.

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
import dataclasses

from absl import logging
import jax
from matplotlib import pyplot as plt
import numpy as np

from dpoq_jax import Cascade, from_run, onion
from dpoq_jax import config as config_lib
from dpoq_jax.inference import calibration, curve, operating_point
from dpoq_jax.runtime import signals
from dpoq_jax.runtime import workdir as workdir_lib
from dpoq_jax.training import experiment, loop, metrics, progress

# Orbax logs a line for every checkpoint that it reads.
logging.set_verbosity(logging.ERROR)
# With DPOQ_SHORT=1 in the environment the network is smaller, and trained for three epochs.
SHORT = os.environ.get('DPOQ_SHORT') == '1'
COLOURS = {2: '#2f86d6', 4: '#e08a1e', 8: '#1f9e77'}  # one per precision
plt.rcParams |= {'axes.grid': True, 'figure.constrained_layout.use': True, 'grid.alpha': 0.2}

# %% [markdown]
# ## 1. One integer, several precisions
#
# The bit list `(2, 4, 8)` gives three *precisions*, and three *rings* of 2, 2 and 4 bits: what each
# precision adds to the one below. `pack` concatenates the codes of all rings into one integer, most
# significant first; `truncate` keeps its highest bits; `ring` takes one ring out again. A code
# `c` of `r` bits stands for the weight `2c / (2^r - 1) - 1`: levels evenly spaced from -1 to 1.

# %%
bits = (2, 4, 8)
weight = onion.pack([0b10, 0b11, 0b0100], bits)

print(f'the stored integer: {weight:08b} = {weight}\n')
print('precision   ring added   integer            value')
for k, (b, width) in enumerate(zip(bits, onion.ring_widths(bits), strict=True)):
  code, added = onion.truncate(weight, bits, to=b), onion.ring(weight, bits, k)
  print(f'{b:2} bits     {added:0{width}b}'.ljust(25), end='')
  print(f'{code:0{b}b}'.ljust(9), f'= {code:3}   {onion.value(code, b):+.4f}')

# %% [markdown]
# That is all: no second copy, no second rounding. The nesting is exact, here checked for every
# 8-bit weight there is.

# %%
every_weight = np.arange(2**8, dtype=np.uint16)
four = onion.truncate(every_weight, bits, to=4)

# The 2 bits of the 4-bit weight are the 2-bit weight.
assert np.array_equal(onion.truncate(four, (2, 4), to=2), onion.truncate(every_weight, bits, to=2))
# The rings hold everything.
rings = [onion.ring(every_weight, bits, k) for k in range(len(bits))]
assert np.array_equal(onion.pack(rings, bits), every_weight)
print(f'exact for all {len(every_weight)} weights')

# %% [markdown]
# **Why this saves work.** Up to a scale, a weight is the odd integer `2c - (2^r - 1)`, and these
# add up ring by ring: shift what you have, add the new ring. Hence a dot product (or a convolution)
# at 8 bits is the one at 4 bits, shifted, plus one with the four new bits. Nothing is computed
# twice.

# %%
random = np.random.default_rng(0)
inputs = random.integers(0, 2**8, 1000)
weights = random.integers(0, 2**8, 1000).astype(np.uint16)

total = 0.0
for k, (b, width) in enumerate(zip(bits, onion.ring_widths(bits), strict=True)):
  added = inputs @ onion.odd_integer(onion.ring(weights, bits, k), width)
  total = 2**width * total + added
  direct = inputs @ onion.odd_integer(onion.truncate(weights, bits, to=b), b)
  assert total == direct
  print(f'{b} bits: ring by ring {total:12,.0f}   directly {direct:12,.0f}')

# %% [markdown]
# In the network each precision is a *path* that convolves with its own ring alone. Instead of the
# fixed shift-and-add there is a learned one, *precision-shift batch norm*: a path normalises its
# own features and learns, per channel, how much of every lower path's to add.
#
# ## 2. What low bits know
#
# The bits known stand for the *middle* of what the weight may still become, up to a factor that
# normalisation absorbs (`merge_factors`). So truncating has no bias, which flooring shared float
# weights would have. A kernel of 8-bit weights, and what 4 and 2 bits know of it:

# %%
y, x = np.mgrid[-1:1:15j, -1:1:15j]
pattern = np.exp(-2 * (x**2 + y**2)) * np.cos(7 * x + 3 * y)
kernel = np.rint((pattern + 1) / 2 * onion.max_code(8)).astype(np.uint8)

figure, axes = plt.subplots(1, len(bits), figsize=(8, 2.6))
for ax, b in zip(axes, bits, strict=True):
  factor, off = onion.merge_factors(b, 8 - b) if b < 8 else (1.0, 0.0)
  known = factor * onion.value(onion.truncate(kernel, bits, to=b), b)
  assert np.abs(known - onion.value(kernel, 8)).max() <= off + 1e-6
  colours = ax.imshow(known, cmap='RdBu', vmin=-1, vmax=1)
  ax.set_title(f'{b} bits: off by {off:.3f} at most' if off else f'{b} bits: exact', size=10)
  ax.axis('off')
figure.colorbar(colours, ax=axes, shrink=0.8)
plt.show()

# %% [markdown]
# ## 3. Training
#
# These are the calls that `dpoq train` makes: a config, the experiment it stands for,
# the loop. All precisions are trained together, in one backward pass; what the loss of a higher one
# sends down to a lower path is scaled by the ratio of their bits (eq. 6 of the paper). The network
# is a ResNet-8 of half the default width, trained for a few epochs only: enough to see the idea.

# %%
config = config_lib.get_config()
config.quantization.bits = bits
config.model.width = 4 if SHORT else 8
config.epochs = 3 if SHORT else 8
config.eval_every = 1
config.data.holdout = 300  # training images kept apart: step 5 chooses thresholds on them

setup = experiment.build(config_lib.validate(config))
for use in ('train', 'holdout', 'test'):
  print(f'{use:8} {len(getattr(setup, f"{use}_set")):5} images')

workdir = pathlib.Path('runs/ten_minutes')

# %%
# Interrupt this cell, and the run is saved first; the same cell again goes on from there.
with signals.catch_stop() as stop, workdir_lib.claim(workdir, setup.config):
  loop.train(setup, workdir, stop=stop, display=progress.Progress())

# %%
rows = [row for row in metrics.read_rows(workdir) if row['kind'] == 'eval']
figure, axes = plt.subplots(figsize=(6, 3.2))
for b in bits:
  top1 = [100 * row['top1'][str(b)] for row in rows]
  axes.plot([row['epoch'] for row in rows], top1, 'o-', color=COLOURS[b], label=f'{b} bits')
axes.set(xlabel='epoch', ylabel='top-1 on test images, %', ylim=(0, 100))
axes.legend(loc='lower right')
plt.show()

# %% [markdown]
# ## 4. What ships: the integers
#
# `from_run.open_network` restores the run and *freezes* it: what was trained in floating point
# becomes one unsigned integer per weight, shared by all precisions. Accuracy is measured on these
# integers, so what is reported is what ships. Beside them each path has some floats of its own:
# normalisation, clipping of activations, classifier.
#
# A precision can predict alone, or as an *ensemble*: the mean of its probabilities and those of the
# lower ones, which had to be computed anyway.

# %%
trained = from_run.open_network(workdir)
predictions = trained.predict(setup.test_set)
alone, ensemble = predictions.top1(), predictions.ensemble_top1()
size = trained.network.stored_bytes(trained.variables)
count = sum(kernel.size for kernel in jax.tree.leaves(trained.variables['onion']))

print(f'{count:,} weights; as float32 they alone would take {4 * count:,} bytes\n')
print('cut at   top-1 alone   ensemble      bytes   of them integers')
for b in bits:
  print(f'{b} bits {alone[b]:13.1%} {ensemble[b]:10.1%} {size[b]:10,} {count * b // 8:18,}')

# %% [markdown]
# Now cut the network at 4 bits: drop the low bits of every integer, and the 8-bit path with them.
# Nothing is trained, rounded or calibrated again. What is left gives the same logits to the last
# bit, as no path ever reads anything from a higher one.

# %%
smaller, variables = trained.network.cut(trained.variables, precision=4)
cut = dataclasses.replace(trained, network=smaller, variables=variables)
cut_logits = cut.predict(setup.test_set).logits
assert np.array_equal(cut_logits, predictions.logits[:2])
assert smaller.stored_bytes(variables) == {b: size[b] for b in (2, 4)}
print(f'{cut_logits.size:,} logits at 2 and 4 bits: bit-identical before and after the cut')

# %% [markdown]
# ## 5. Choosing an operating point
#
# Most digits are easy. So run 2 bits first, and go on with an input only while the network is not
# confident of it. How confident is confident enough? Start with all images at 2 bits and move up
# one image by one precision at a time, the least confident first (confidences of different
# precisions are made comparable by eq. 9). Every state on the way has an accuracy and a cost: the
# *rerun curve*. A point of it gives a threshold per precision.
#
# Here: the cheapest point that loses at most half a percentage point against 8 bits for everything.
# It is chosen on the images held out of training, and reported on the test images.

# %%
examples = from_run.held_out(trained)
settings = calibration.Settings(operating_point.Target(kind='max_accuracy_drop', value=0.005))
point, *_ = calibration.choose(
  examples.calibration,
  examples.reported,
  bits,
  settings,
  dataset=setup.config.data.name,
  step=trained.step,
)

for b in bits[:-1]:
  print(f'leave at {b} bits from a confidence of {point.thresholds[b]:.3f}')
print('leave at 8 bits in any case')
print(f'predict from: {point.combine} (of last, mean and weighted, the best here)')
print(f'\n{"":12} {"top-1":>8} {"8 bits alone":>13} {"average bits":>13} {"relative cost":>14}')
for name, of, outcome in (
  ('calibration', examples.calibration, point.expected),
  ('reported', examples.reported, point.reported),
):
  highest = np.mean(of.logits[-1].argmax(axis=-1) == of.labels)
  print(f'{name:12} {outcome.accuracy:8.1%} {highest:13.1%}', end='')
  print(f'{outcome.average_bits:14.2f} {outcome.relative_cost:14.2f}')

# %%
rerun = curve.rerun_curve(
  examples.calibration.logits,
  examples.calibration.labels,
  bits,
  point.order,
  tuple(point.weights.values()),
)
figure, axes = plt.subplots(figsize=(7, 3.8))
axes.step(
  rerun.average_bits, 100 * rerun.accuracy, where='post', color='k', lw=1.3, label='rerun curve'
)
for k, b in enumerate(bits):
  accuracy = np.mean(examples.calibration.logits[k].argmax(axis=-1) == examples.calibration.labels)
  axes.plot(b, 100 * accuracy, 'o', ms=8, color=COLOURS[b], label=f'{b} bits for every image')
x, y = point.expected.average_bits, 100 * point.expected.accuracy
axes.plot(x, y, '*', ms=17, mec='white', color='r', label='operating point')
axes.set(xlabel='average bits', ylabel='top-1 on calibration images, %')
axes.set_xscale('log', base=2)
axes.set_xticks(bits, [str(b) for b in bits])
axes.legend(loc='lower right')
plt.show()

# %% [markdown]
# With a few hundred images the curve is jagged: its smallest step is one image.
#
# ## 6. Leaving early
#
# `Cascade` runs the operating point: every input goes through the paths up to its exit and no
# further, with what lower paths computed kept for the next. Undecided inputs wait until there are
# enough of them to fill a program, so that the higher paths run full too.

# %%
cascade = Cascade(trained.network, trained.variables, point)
result = cascade(examples.images)

correct = result.labels == examples.reported.labels
print(f'top-1 {correct.mean():.1%} at {result.precisions.mean():.2f} bits on average')

# %% [markdown]
# Which images leave early? Mostly digits that are plain to see. Those that need the most bits tend
# to be the ones a person would look at twice. Above each image is the answer, with the bits that it
# took; wrong answers are red.

# %%
early = np.flatnonzero(result.precisions == bits[0])[:10]
late = np.argsort(-result.precisions, kind='stable')[:10]
figure, grid = plt.subplots(2, 10, figsize=(10, 2.6))
for line, chosen in zip(grid, (early, late), strict=True):
  for ax, index in zip(line, chosen, strict=False):
    ax.imshow(examples.images[index, ..., 0], cmap='gray_r')
    answer = f'{result.labels[index]} ({result.precisions[index]} b)'
    ax.set_title(answer, size=9, color='k' if correct[index] else 'r')
  for ax in line:
    ax.axis('off')
plt.show()

# %% [markdown]
# The precision can also be capped at run time, say when the battery is low: the same network, the
# same thresholds, no recompilation.

# %%
print('cap        top-1   average bits   relative cost')
for cap in reversed(bits):
  capped = cascade(examples.images, max_precision=cap)
  top1 = np.mean(capped.labels == examples.reported.labels)
  print(f'{cap} bits {top1:10.1%} {capped.precisions.mean():14.2f} {capped.cost.mean():15.2f}')

# %% [markdown]
# ## Where to go from here
#
# The same as commands, on real pictures: [cifar10_on_a_gpu](cifar10_on_a_gpu.ipynb),
# [your_own_images](your_own_images.ipynb). What a device gets: [deploy](deploy.ipynb). What the
# code is made of: [architecture](../docs/architecture.md).
