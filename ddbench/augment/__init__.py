"""Augmentation of image batches: ``dsa`` (differentiable, siamese) and ``classic`` (DC's, before DSA)."""
