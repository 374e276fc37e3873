"""Self-supervised losses on the views of a panorama; correspondences come from `cora.geometry.overlap`."""

from cora.training.losses.contrastive import DenseCLLoss, PanoContrastiveLoss
from cora.training.losses.global_local import GlobalLocalLoss
from cora.training.losses.vicreg import VICRegLoss

__all__ = ["DenseCLLoss", "GlobalLocalLoss", "PanoContrastiveLoss", "VICRegLoss"]
