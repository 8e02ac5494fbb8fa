"""Notebook cells over the rails of `streaming`: IPython kernels, their output as streams, their record."""
