"""Defines the networks of one path; an onion runs several of them."""

from dpoq_jax.models.from_name import MODELS, build
from dpoq_jax.models.imagenet_resnet import ImageNetResNet
from dpoq_jax.models.mobilenet import MobileNetV2
from dpoq_jax.models.resnet import CifarResNet
from dpoq_jax.models.vgg import Vgg

__all__ = ['MODELS', 'CifarResNet', 'ImageNetResNet', 'MobileNetV2', 'Vgg', 'build']
