"""Networks of one path; an onion runs several of them."""

from dpoq_jax.models.imagenet_resnet import ImageNetResNet
from dpoq_jax.models.mobilenet import MobileNetV2
from dpoq_jax.models.resnet import CifarResNet
from dpoq_jax.models.vgg import Vgg

MODELS = {
  'resnet': CifarResNet,
  'imagenet_resnet': ImageNetResNet,
  'vgg': Vgg,
  'mobilenet': MobileNetV2,
}
"""By the name that a config gives."""
