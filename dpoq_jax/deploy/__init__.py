"""Writes trained networks as files: ring by ring, and as graphs for other runtimes."""
