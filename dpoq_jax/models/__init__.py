"""Models: each file is an ordinary Linen network of one path."""

from dpoq_jax.models.resnet import CifarResNet

MODELS = {'resnet': CifarResNet}
