"""Computes what the method is made of: quantizers, integer convolution, precision-shift BN."""
