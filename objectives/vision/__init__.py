"""Pretrained models that read images: how images become tensors, and their families."""
