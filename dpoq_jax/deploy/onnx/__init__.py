"""Exports networks to ONNX, as graphs of integers."""
