"""Trains networks: objective, optimizer, step, loop, evaluation, checkpoints, metrics."""
