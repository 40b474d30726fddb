"""Writes the report of a run: one HTML page and its plots."""
