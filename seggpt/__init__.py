"""SegGPT (arXiv:2304.03284) for Detectron2: segment anything from examples in context."""
