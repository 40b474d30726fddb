"""Runs dynamic inference: thresholds are chosen on data, and inputs leave where they are confident."""
