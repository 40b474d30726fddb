"""Reproduces the paper's tables and figures, and sets the results beside its numbers."""
