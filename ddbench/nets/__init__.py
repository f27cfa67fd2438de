"""Networks by name: ``names`` (torch-free) says which exist, ``build`` makes them.

Importing this package does not import torch, so that names can be listed and checked quickly.
"""
