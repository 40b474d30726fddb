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
# # Your own images
#
# A folder of pictures becomes a network that runs at 2, 4 and 8 bits and calls the classes by the
# names of your folders: prepare, train, choose an operating point, predict, export, a command each.
# The pictures here are generated, shapes on noise, so there is nothing to download; to take yours,
# skip the cell that draws and have their folder in place of `photos`. Some minutes on two CPU
# cores.

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
import csv
import shutil

from matplotlib import pyplot as plt
import numpy as np
from PIL import Image, ImageDraw

# With DPOQ_SHORT=1 in the environment two precisions are trained for two epochs, to see that all
# runs.
SHORT = os.environ.get('DPOQ_SHORT') == '1'
os.environ['SHORTER'] = ' '.join(
  (
    '--config.epochs=2 --config.eval_every=2 --config.quantization.bits=2,4',
    '--config.objective.companion_bits=() --config.objective.companion_rings=1',
  )
  if SHORT
  else ()
)
# What an earlier run of this notebook left here.
for name in ('photos', 'more_photos', 'data', 'runs', 'shipped'):
  shutil.rmtree(name, ignore_errors=True)

# %% [markdown]
# ## The pictures
#
# A folder for each class, pictures of any size. Sixty of each are few: photographs need more.

# %%
SIDES = {'triangle': 3, 'square': 4, 'hexagon': 6, 'disc': 40}


def picture(random, sides):
  """Draws a polygon of any colour, place, size and direction on noise of another colour."""
  width, height = random.integers(40, 90, 2)
  dark, light = random.integers(0, 90, 3), random.integers(150, 240, 3)
  ground, ink = (dark, light) if random.random() < 0.5 else (light, dark)
  noise = random.normal(0, 15, (height, width, 3))
  image = Image.fromarray(np.clip(ground + noise, 0, 255).astype(np.uint8))
  radius = min(width, height) * random.uniform(0.28, 0.42)
  x, y = np.array([width, height]) / 2 + random.uniform(-0.05, 0.05, 2) * [width, height]
  turn = float(random.uniform(0, 360))
  ImageDraw.Draw(image).regular_polygon((x, y, radius), sides, turn, fill=tuple(ink.tolist()))
  return image


def draw(folder, each, seed):
  random = np.random.default_rng(seed)
  for name, sides in SIDES.items():
    (pathlib.Path(folder) / name).mkdir(parents=True)
    for number in range(each):
      picture(random, sides).save(f'{folder}/{name}/{number:02}.png')


draw('photos', 60, seed=0)
draw('more_photos', 4, seed=1)

# %% [markdown]
# ## Prepare
#
# The folder becomes a data set in a standard form. A quarter of each class is held out to report
# on: 60 pictures, so that one is 1.7 points.

# %% language="bash"
# dpoq prepare folder shapes --source=photos --data-dir=data --holdout=0.25

# %% [markdown]
# ## Train
#
# 180 pictures are too few to learn to see. So it starts from the network for CIFAR-10 that comes
# with the library: same weights at every precision, fresh classifiers. `--dry-run` says how long it
# takes and trains nothing; interrupted, the same command goes on.

# %% language="bash"
# dpoq train --config=own_images:size=32,model=resnet8 --config.data.name=shapes \
#   --config.data.dir=data --config.init_from=pretrained:cifar10_resnet8 \
#   --config.epochs=20 --config.eval_every=5 --workdir=runs/shapes $SHORTER

# %% [markdown]
# ## Choose when a picture may leave
#
# The cheapest thresholds that lose at most two points to the highest precision. They are chosen on
# half of the 60, and reported on the other half: too few to trust, but the steps are those of more.

# %% language="bash"
# dpoq calibrate --workdir=runs/shapes --max-accuracy-drop=0.02

# %% [markdown]
# ## Predict
#
# Pictures that had no part in any of it, with the label, and the bits at which each left.

# %% language="bash"
# dpoq predict --workdir=runs/shapes more_photos --output=labels.csv

# %%
with pathlib.Path('labels.csv').open() as file:
  rows = list(csv.DictReader(file))
figure, axes = plt.subplots(2, 8, figsize=(10, 3), layout='constrained')
for ax, row in zip(axes.flat, rows, strict=True):
  path = pathlib.Path('more_photos', row['input'])
  right = row['class_name'] == path.parent.name
  ax.imshow(Image.open(path))
  ax.set_title(f'{row["class_name"]}\n{row["precision"]} bits', size=9, color='k' if right else 'r')
  ax.axis('off')
plt.show()

# %% [markdown]
# ## Export
#
# A file for each ring: a device takes as many as it has room for. The names of the classes and the
# operating point go with them, and the labels are those of the run.

# %% language="bash"
# dpoq export --workdir=runs/shapes --output=shipped
# dpoq predict --artifact=shipped more_photos --output=labels_shipped.csv
# cmp labels.csv labels_shipped.csv && echo 'the same labels'

# %% [markdown]
# ## With pictures of yours
#
# * Larger ones: `--config=own_images` trains ResNet-20 on 64 x 64 pixels, `own_images:size=128`
#   ResNet-18 on 128 x 128, both from scratch.
# * Some hundreds of each class or more: leave out `--config.init_from`, and compare.
# * CSV files of labels, splits of your own, copies, damaged files:
#   [a network of your own images](../docs/how_to/own_images.md).
# * What to do with `shipped`: the notebook [deploy](deploy.ipynb).
