"""Runs dynamic inference: chooses thresholds on examples, lets inputs leave where they are sure."""
