"""Dynamic inference: thresholds chosen on data, inputs that leave early."""
