"""What metrics are called where people read them."""

from __future__ import annotations

__all__ = ["LABELS"]

# In the order they are shown in.
LABELS = {
    "exact_match": "Exact match",
    "protocol": "Right by protocol",
    "bleu_1": "BLEU-1",
    "bleu_2": "BLEU-2",
    "bleu_3": "BLEU-3",
    "bleu_4": "BLEU-4",
    "meteor": "METEOR",
    "rouge_l": "ROUGE-L",
    "cider": "CIDEr-D",
    "spice": "SPICE",
}
