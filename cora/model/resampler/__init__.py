"""Resamplers: from vision tokens of one view to latent tokens. One file per kind, registered in `module`."""

from cora.model.resampler.base import GridResampler, Resampler
from cora.model.resampler.module import RESAMPLERS, ResamplerModule

__all__ = ["RESAMPLERS", "GridResampler", "Resampler", "ResamplerModule"]
