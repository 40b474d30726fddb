"""Data: where images come from, in which order they are fed, how they are augmented.

`sources` loads a data set into memory, `prepare` writes the ones that need files, `pipeline` cuts
batches, `augment` is the part of the training step that touches pixels. Nothing here imports the
rest of the library.
"""
