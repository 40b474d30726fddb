"""The export to ONNX: graphs of integers."""
