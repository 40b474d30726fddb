"""Holds what the commands share: how they start, their common flags, how errors are shown."""
