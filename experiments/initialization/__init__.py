"""Signals and gradients of VGG-16 and ResNet-50 at initialisation."""
