"""DiffusionBlocks' experiments: block-wise training of residual networks as denoisers (arXiv 2506.14202)."""
