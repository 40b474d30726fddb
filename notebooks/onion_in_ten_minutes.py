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
# [![Open in Colab][badge]][colab]
#
# `dpoq_jax` trains **one** network that runs at several weight precisions. Its weights are
# integers, nested like the rings of an onion: the 2-bit weight is the two most significant bits of
# the 4-bit one, and that is the top half of the 8-bit one. Drop the low bits, and what is left is a
# smaller network. Give an input more bits, and what was computed for it so far is used again. The
# method is *dynamic precision onion quantization* ([DPOQ, ACML 2021][paper]).
#
# Six steps lead from a single integer to a network that spends bits only on the inputs that need
# them. All of it runs in about a minute on two CPU cores: the images are scikit-learn's handwritten
# digits, so there is no data to download.
#
# [badge]: https://colab.research.google.com/assets/colab-badge.svg
# [colab]: https://colab.research.google.com/github/OWNER/dpoq_jax/blob/main/notebooks/onion_in_ten_minutes.ipynb
# [paper]: https://proceedings.mlr.press/v157/li21a.html

# %%
import importlib.util
import pathlib
import sys

if pathlib.Path('../dpoq_jax').is_dir():  # in a checkout of the repository
  sys.path.insert(0, str(pathlib.Path('..').resolve()))
elif importlib.util.find_spec('dpoq_jax') is None:  # on Colab, say
  print('Installing. If you are then asked to restart the runtime, do so and run this cell again.')
  # %pip install --quiet git+https://github.com/OWNER/dpoq_jax

# %%
import dataclasses
import tempfile

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

INK, WRONG = '#1f2328', '#d1495b'
COLOURS = {2: '#2f86d6', 4: '#e08a1e', 8: '#1f9e77', 16: '#7a6bc4'}  # one per precision
plt.rcParams.update(
  {
    'axes.grid': True,
    'axes.spines.right': False,
    'axes.spines.top': False,
    'figure.constrained_layout.use': True,
    'figure.dpi': 110,
    'font.size': 10,
    'grid.alpha': 0.2,
    'legend.frameon': False,
  }
)

# %% [markdown]
# ## 1. One integer, several precisions
#
# The bit list `(2, 4, 8)` gives three *precisions*, and three *rings* of 2, 2 and 4 bits: what each
# precision adds to the one below. `pack` concatenates the codes of all rings into one integer, most
# significant first; `truncate` keeps its highest bits; `ring` takes one ring out again. A code $c$
# of $r$ bits stands for the weight $2c / (2^r - 1) - 1$: levels evenly spaced from -1 to 1.

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
# **Why this saves work.** Up to a scale, a weight is the odd integer $2c - (2^r - 1)$, and these
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
# ## 2. A weight, peeled
#
# A 16-bit weight, ring by ring. Its two highest bits say in which quarter of [-1, 1] it lies, and
# every further ring looks more closely at the part chosen so far: each row of the plot is a zoom
# into the one above. The bits known stand for the *middle* of what the weight may still become (up
# to a factor that normalisation absorbs, see `merge_factors`). So truncating has no bias, which
# flooring shared float weights would have.

# %%
deep = (2, 4, 8, 16)


def known(weights, b):
  """Value that is known of 16-bit weights by their b highest bits, and how far it can be off."""
  if b == 16:
    return onion.value(weights, 16), 0.0
  factor, off = onion.merge_factors(b, 16 - b)
  return factor * onion.value(onion.truncate(weights, deep, to=b), b), off


weight = np.uint16(0b1011_0100_0110_1101)
figure, (zooms, errors) = plt.subplots(1, 2, figsize=(10, 4), width_ratios=(2.2, 1))
height, place = 0.5, 0.22
for k, (b, width) in enumerate(zip(deep, onion.ring_widths(deep), strict=True)):
  code, cells = int(onion.ring(weight, deep, k)), 2**width
  zooms.add_patch(plt.Rectangle((0, -k), 1, height, color=COLOURS[b], alpha=0.15, lw=0))
  zooms.add_patch(plt.Rectangle((code / cells, -k), 1 / cells, height, color=COLOURS[b], lw=0))
  zooms.vlines(np.arange(cells + 1) / cells, -k, -k + height, color='white', lw=1.2 / width)
  if b < 16:
    corners = [(code / cells, -k), (0, -k - 1 + height), (1, -k - 1 + height)]
    corners.append(((code + 1) / cells, -k))
    zooms.add_patch(plt.Polygon(corners, color=COLOURS[b], alpha=0.12, lw=0))
  if width < 8:
    for cell in range(cells):
      zooms.text(
        (cell + 0.5) / cells, -k + height / 2, f'{cell:0{width}b}', ha='center', va='center',
        fontsize=9 if width < 4 else 6.5, color='white' if cell == code else INK,
      )  # fmt: skip
  value, off = known(weight, b)
  zooms.text(place, 0.75, f'{code:0{width}b}', color=COLOURS[b], family='monospace', fontsize=15)
  place += 0.026 * width + 0.012
  zooms.text(-0.02, -k + height / 2, f'{b} bits', ha='right', va='center', weight='bold')
  about = f'{value:+.5f}' + (f'\n$\\pm$ {off:.5f}' if off else '\nexact')
  zooms.text(1.02, -k + height / 2, about, va='center', fontsize=9)
zooms.set(xlim=(-0.13, 1.17), ylim=(-3.1, 1))
zooms.axis('off')

many = random.integers(0, 2**16, 300).astype(np.uint16)
for place, b in enumerate(deep[:-1]):
  value, off = known(many, b)
  error = np.abs(onion.value(many, 16) - value)
  errors.semilogy(place + random.uniform(-0.25, 0.25, len(many)), error, '.', ms=3, c=COLOURS[b])
  errors.hlines(off, place - 0.4, place + 0.4, color=INK, lw=1.2, label=None if place else 'bound')
errors.set_xticks(range(3), [f'{b} bits' for b in deep[:-1]])
errors.set(ylim=(1e-5, 1), ylabel='distance to the 16-bit value', title='300 random weights')
errors.legend(loc='lower left')
plt.show()

every_weight = np.arange(2**16, dtype=np.uint16)
for b in deep[:-1]:  # no bias: over all weights the errors add up to exactly 0, in integers
  coarse = onion.odd_integer(onion.truncate(every_weight, deep, to=b), b)
  assert np.sum(onion.odd_integer(every_weight, 16) - 2.0 ** (16 - b) * coarse) == 0

# %% [markdown]
# The same for a small kernel, on one scale of colours. At 2 bits the pattern is there; at 8 bits
# the eye finds no error.

# %%
y, x = np.mgrid[-1:1:15j, -1:1:15j]
pattern = np.exp(-2 * (x**2 + y**2)) * np.cos(7 * x + 3 * y)
kernel = np.rint((pattern + 1) / 2 * onion.max_code(16)).astype(np.uint16)

figure, axes = plt.subplots(2, len(deep), figsize=(8, 4.2))
for (above, below), b in zip(axes.T, deep, strict=True):
  value, _ = known(kernel, b)
  error = onion.value(kernel, 16) - value
  above.imshow(value, cmap='RdBu', vmin=-1, vmax=1)
  colours = below.imshow(error, cmap='RdBu', vmin=-1, vmax=1)
  above.set_title(f'{b} bits', color=COLOURS[b], weight='bold')
  below.set_xlabel(f'largest: {np.abs(error).max():.1g}')
for row, name in zip(axes, ('weights', 'error'), strict=True):
  row[0].set_ylabel(name)
  for ax in row:
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
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
config.model.width = 8
config.epochs = 8
config.eval_every = 1
config.data.holdout = 300  # training images kept apart: step 5 chooses thresholds on them

setup = experiment.build(config_lib.validate(config))
for use in ('train', 'holdout', 'test'):
  print(f'{use:8} {len(getattr(setup, f"{use}_set")):5} images')

workdir = pathlib.Path(tempfile.mkdtemp(prefix='onion_'))
print(f'the run goes to {workdir}')

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

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), sharey=True)
names, colours = [f'{b} bits' for b in bits], [COLOURS[b] for b in bits]
integers = np.array([count * b / 8 for b in bits]) / 1000
floats = np.array([size[b] for b in bits]) / 1000 - integers
left.barh(names, integers, color=colours, height=0.55)
left.barh(names, floats, left=integers, color=INK, alpha=0.2, height=0.55, label='floats of paths')
left.axvline(4 * count / 1000, color=INK, ls=':', label='weights as float32')
left.set(xlabel='kB', title='size when cut at a precision')
left.invert_yaxis()
left.legend(loc='upper right', bbox_to_anchor=(0.95, 1))
right.scatter([100 * alone[b] for b in bits], names, c=colours, s=80, label='alone')
right.scatter(
  [100 * ensemble[b] for b in bits], names, s=150, facecolors='none', edgecolors=INK,
  label='ensemble',
)  # fmt: skip
right.set(xlabel='top-1 on test images, %', title='accuracy')
right.legend(loc='upper right')
plt.show()

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
  rerun.average_bits, 100 * rerun.accuracy, where='post', color=INK, lw=1.3, label='rerun curve'
)
for k, b in enumerate(bits):
  accuracy = np.mean(examples.calibration.logits[k].argmax(axis=-1) == examples.calibration.labels)
  axes.plot(b, 100 * accuracy, 'o', ms=8, color=COLOURS[b], label=f'{b} bits for every image')
x, y = point.expected.average_bits, 100 * point.expected.accuracy
axes.plot(x, y, '*', ms=17, mec='white', color=WRONG, label='operating point')
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

# %%
shares = [np.mean(result.precisions == b) for b in bits]
figure, axes = plt.subplots(figsize=(7, 1.7))
start = 0.0
for b, share in zip(bits, shares, strict=True):
  axes.barh(0, share, left=start, color=COLOURS[b], label=f'left at {b} bits: {share:.1%}')
  start += share
axes.set(xlim=(0, 1), xticks=[], yticks=[], title='share of the test images per exit')
axes.spines[:].set_visible(False)
axes.grid(visible=False)
axes.legend(loc='upper center', bbox_to_anchor=(0.5, 0), ncols=3)
plt.show()

# %% [markdown]
# Which images leave early? Mostly digits that are plain to see. Those that need the most bits tend
# to be the ones a person would look at twice. Below each image is the answer, with the bits that it
# took; wrong answers are red.

# %%
early = np.flatnonzero(result.precisions == bits[0])[:24]
late = np.argsort(-result.precisions, kind='stable')[:24]

figure = plt.figure(figsize=(10, 4.6))
groups = (('left at 2 bits', early), ('needed the most bits', late))
for side, (title, chosen) in zip(figure.subfigures(1, 2, wspace=0.06), groups, strict=True):
  side.suptitle(title)
  for ax in side.subplots(4, 6).flat:
    ax.axis('off')
  for ax, index in zip(side.axes, chosen, strict=False):
    ax.imshow(examples.images[index, ..., 0], cmap='gray_r')
    answer = f'{result.labels[index]} ({result.precisions[index]} b)'
    ax.set_title(answer, y=-0.32, fontsize=9, color=INK if correct[index] else WRONG)
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
# The same from the shell; every command takes `--help`:
#
# | | |
# | --- | --- |
# | `dpoq train --workdir=DIR` | trains on the digits; `--config=FILE.py` for more |
# | `dpoq evaluate --workdir=DIR` | accuracy and size per precision |
# | `dpoq calibrate --workdir=DIR` | chooses an operating point |
# | `dpoq predict --workdir=DIR --images=FOLDER` | labels images with it |
#
# In the repository, `configs/` has CIFAR-10 and CIFAR-100, `README.md` says how to prepare them,
# and `docs/architecture.md` shows how the code is built, why, and which file decides what.
