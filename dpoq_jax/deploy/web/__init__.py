"""Writes a folder that shows a network in a browser."""
