"""Reads images, decides in which order they are fed, and augments them.

`examples` says which examples each step gets, whatever the data set. `in_memory` holds the small
sets; `prepare` writes the files of those that need any. `streamed` decodes the large ones as they
are needed: `records` reads one record, `decode` and `crop` make pixels of it, `corrupt_records`
decides what happens if that fails, `workers` does it ahead of time in other processes.
`tfds_directory` finds and checks the files of both. `augment` is the part of the training step that
touches pixels.
`to_predict` reads images without labels: those that `image_folder` finds, or an array by `npy`.
Nothing here imports more of the library than how files are opened and errors written (`runtime`).
"""
