"""Pretrained models that read images: how images become tensors, and the families `vit` and `convolutional`."""
