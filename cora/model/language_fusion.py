"""LanguageFusion: puts vision tokens where the placeholders are.

Shapes: B batch, L sequence, P panoramas, T vision tokens per panorama, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["LanguageFusion"]


class LanguageFusion(nn.Module):
    """Replaces the embeddings of placeholder tokens by vision tokens, panorama by panorama.

    Args:
        image_token_id: Id of the placeholder.
    """

    def __init__(self, image_token_id: int) -> None:
        super().__init__()
        self.image_token_id = image_token_id

    def placeholders(self, input_ids: Tensor) -> Tensor:
        """Return bool[B, L]: where the placeholders are."""
        return input_ids == self.image_token_id

    def forward(self, input_ids: Tensor, embeddings: Tensor, vision_tokens: Tensor) -> Tensor:
        """Return embeddings float[B, L, D] with the vision tokens in place.

        Args:
            input_ids: int64[B, L]; a row holds T placeholders for each of its panoramas.
            embeddings: Token embeddings, float[B, L, D].
            vision_tokens: float[P, T, D], panoramas in the order of the rows.

        Raises:
            ValueError: Placeholders and vision tokens do not match in number, in total or in a row.
        """
        mask = self.placeholders(input_ids)
        num_panoramas, num_tokens, _ = vision_tokens.shape
        per_row = mask.sum(dim=1)
        total = int(per_row.sum())
        if total != num_panoramas * num_tokens:
            raise ValueError(
                f"the text has {total} placeholders, but {num_panoramas} panoramas have "
                f"{num_panoramas * num_tokens} vision tokens ({num_tokens} each)"
            )
        uneven = (per_row % num_tokens != 0).nonzero()
        if len(uneven):
            row = int(uneven[0])
            raise ValueError(
                f"row {row} has {int(per_row[row])} placeholders, no multiple of the {num_tokens} vision tokens of a "
                "panorama"
            )
        return embeddings.masked_scatter(mask[..., None], vision_tokens.to(embeddings.dtype))
