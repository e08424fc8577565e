"""Image classifiers: networks from images to the logits of each class."""

from research.layers.efficientnet import EfficientNetLite
from research.layers.mobilenet import MobileNetV3
from research.layers.resnet import ResNet
from research.layers.vit import ViT
from research.tasks.image_classification.models.classifier import Classifier
from research.tasks.image_classification.models.cnn import CNN
from research.tasks.image_classification.models.fast_resnet import FastResNet
from research.tasks.image_classification.models.mlp import MLP

__all__ = [
    "CNN",
    "MLP",
    "Classifier",
    "EfficientNetLite",
    "FastResNet",
    "MobileNetV3",
    "ResNet",
    "ViT",
]
