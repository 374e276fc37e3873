"""Resamplers: from vision tokens of one view to latent tokens. One file per kind, registered in `module`."""

from cora.model.resampler.base import GridResampler, LatentResampler, Resampler
from cora.model.resampler.module import RESAMPLERS, ResamplerModule, checked_options

__all__ = ["RESAMPLERS", "GridResampler", "LatentResampler", "Resampler", "ResamplerModule", "checked_options"]
