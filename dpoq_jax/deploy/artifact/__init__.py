"""Writes and reads artifacts: a manifest and a file per ring."""
