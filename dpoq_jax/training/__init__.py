"""Training: objective, optimizer, step, loop, evaluation, checkpoints, metrics."""
