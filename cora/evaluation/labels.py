"""What metrics are called where people read them."""

from __future__ import annotations

__all__ = ["JUDGE_PREFIX", "LABELS", "label_of"]

# What a judge's score is called begins with it; the name of the model follows.
JUDGE_PREFIX = "judge:"

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


def label_of(metric: str) -> str:
    """Return what a metric is called; one that is not known keeps its name."""
    if metric.startswith(JUDGE_PREFIX):
        return f"Judge {metric.removeprefix(JUDGE_PREFIX)}"
    return LABELS.get(metric, metric)
