"""A pretrained model on disk: its folder, its checkpoint, and what can be wrong with both."""
