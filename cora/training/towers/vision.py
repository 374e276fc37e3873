"""A small SigLIP vision tower, pretrained on single views and the phrases that describe what they show.

The loss is SigLIP's: every (view, phrase) pair is a yes-or-no question. A pair's score is the best match over the
view's patches rather than one of a pooled vector, so that each patch learns to say what it shows itself; that is what
a language model that reads patch tokens needs.

Shapes: B views, S patch tokens per view, P phrases, W words, D width.

Reference: Zhai et al., SigLIP (2023), equation 1; Yao et al., FILIP (2022), section 3.1, for the patch-wise score.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from cora.data.synthetic import SplitFiles, random_scene
from cora.data.synthetic.phrases import PHRASES, visible_phrases
from cora.processors.images import PanoramaImageProcessor
from cora.training.schedule import linear_warmup_decay

__all__ = ["VisionTowerOptions", "make_vision_tower"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class VisionTowerOptions:
    """Size and schedule of the tower."""

    width: int = 128
    num_layers: int = 3
    num_heads: int = 4
    patch_size: int = 12
    steps: int = 500
    batch_size: int = 128
    lr: float = 2e-3


class _PhraseEncoder(nn.Module):
    """Embeds a phrase as the sum of its words plus what a small network makes of that sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        words = sorted({word for phrase in PHRASES for word in phrase.split()})
        bags = [[float(word in phrase.split()) for word in words] for phrase in PHRASES]
        self.register_buffer("bags", torch.tensor(bags))
        self.words = nn.Linear(len(words), width, bias=False)
        self.mix = nn.Sequential(nn.GELU(), nn.Linear(width, width))

    def forward(self) -> Tensor:
        """Return unit vectors float[P, D] of all phrases."""
        summed = self.words(self.bags)
        vectors: Tensor = F.normalize(summed + self.mix(summed), dim=-1)
        return vectors


class _ViewPhraseMatcher(nn.Module):
    """The vision tower with what is only needed to pretrain it."""

    def __init__(self, tower: SiglipVisionModel, width: int) -> None:
        super().__init__()
        self.tower = tower
        self.phrases = _PhraseEncoder(width)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(-8.0))

    def forward(self, views: Tensor) -> Tensor:
        """Return logits float[B, P] for normalised views float[B, 3, h, w]: a soft maximum over the patches."""
        patches = F.normalize(self.tower(pixel_values=views).last_hidden_state, dim=-1)
        similarity = patches @ self.phrases().T * self.log_scale.exp()
        logits: Tensor = similarity.logsumexp(dim=1) + self.bias
        return logits


def _views_and_labels(split: SplitFiles, processor: PanoramaImageProcessor) -> tuple[Tensor, Tensor]:
    """Return all views of a split as float16[N, 3, h, w] and whether each phrase holds, bool[N, P]."""
    index = {phrase: position for position, phrase in enumerate(PHRASES)}
    views, labels = [], []
    pairs = list(zip(split.seeds, split.images, strict=True))
    for seed, image in track(pairs, description="cutting views"):
        views.append(processor(image)["pixel_values"][0].half())
        scene = random_scene(seed)
        for view in processor.views:
            row = torch.zeros(len(PHRASES), dtype=torch.bool)
            row[[index[phrase] for phrase in visible_phrases(scene, view)]] = True
            labels.append(row)
    return torch.cat(views), torch.stack(labels)


def make_vision_tower(
    folder: Path,
    split: SplitFiles,
    processor: PanoramaImageProcessor,
    *,
    options: VisionTowerOptions | None = None,
    seed: int = 0,
) -> float:
    """Pretrain a vision tower on the views of a split and save it as a Hugging Face directory.

    Args:
        folder: Where it is saved.
        split: Panoramas of made-up scenes.
        processor: Cuts them, as it will for the finished model.
        options: Size and schedule.
        seed: Of weights and batches.

    Returns:
        F1 score of "this view shows that" over the last tenth of the steps, each batch before it is learnt from.
    """
    options = VisionTowerOptions() if options is None else options
    views, labels = _views_and_labels(split, processor)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tower = SiglipVisionModel(
            SiglipVisionConfig(
                hidden_size=options.width,
                intermediate_size=3 * options.width,
                num_hidden_layers=options.num_layers,
                num_attention_heads=options.num_heads,
                image_size=processor.image_size[0],
                patch_size=options.patch_size,
                vision_use_head=False,
            )
        )
        score = _fit(_ViewPhraseMatcher(tower, options.width), views, labels, options)
    tower.save_pretrained(folder)
    logger.info("vision tower: F1 %.3f on views and phrases, saved to %s", score, folder)
    return score


def _fit(matcher: _ViewPhraseMatcher, views: Tensor, labels: Tensor, options: VisionTowerOptions) -> float:
    optimizer = torch.optim.AdamW(matcher.parameters(), lr=options.lr, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = linear_warmup_decay(optimizer, total_steps=options.steps, warmup_ratio=0.1)
    counts: list[tuple[int, int]] = []
    for _ in track(range(options.steps), description="vision tower"):
        rows = torch.randint(len(views), (options.batch_size,))
        logits, truth = matcher(views[rows].float()), labels[rows].float()
        loss = F.binary_cross_entropy_with_logits(logits, truth, reduction="sum") / len(rows)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(matcher.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        said = logits > 0
        counts.append((2 * int((said * truth).sum()), int(said.sum() + truth.sum())))
    return _f1(counts[-max(options.steps // 10, 1) :])


def _f1(counts: Sequence[tuple[int, int]]) -> float:
    return sum(hits for hits, _ in counts) / max(sum(total for _, total in counts), 1)
