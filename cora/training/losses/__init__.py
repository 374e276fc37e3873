"""Self-supervised losses on physically overlapping views; correspondences come from `cora.geometry.overlap`."""

from cora.training.losses.contrastive import DenseCLLoss, PanoContrastiveLoss
from cora.training.losses.vicreg import VICRegLoss

__all__ = ["DenseCLLoss", "PanoContrastiveLoss", "VICRegLoss"]
