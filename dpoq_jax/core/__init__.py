"""The method's arithmetic and layers: quantizers, convolution on integers, precision-shift BN."""
