"""Which tokens are dropped, and when; what that means for a training step is in tests/training/test_token_drop.py."""

from __future__ import annotations

import pytest
import torch

from cora.errors import ConfigError
from cora.model.resampler import ResamplerModule


def build(**options: object) -> ResamplerModule:
    torch.manual_seed(0)
    return ResamplerModule({"type": "masked_drop", **options}, input_dim=12, latent_dim=10).train()


def num_kept(module: ResamplerModule, num_tokens: int = 100) -> int:
    kept = module.draw_kept(2, num_tokens)
    return num_tokens if kept is None else kept.shape[1]


def test_every_token_goes_through_alone_in_training_and_in_evaluation() -> None:
    module, tokens = build(), torch.randn(2, 15, 12)
    trained = module(tokens, (3, 5))
    assert torch.equal(trained, module.eval()(tokens, (3, 5)))
    torch.testing.assert_close(trained[:, 4:5], module(tokens[:, 4:5], (1, 1)))


def test_nothing_is_dropped_in_evaluation() -> None:
    assert build().eval().draw_kept(3, 100) is None


def test_kept_tokens_are_a_random_choice_in_order() -> None:
    module = build()
    kept = torch.stack([module.draw_kept(3, 100) for _ in range(200)])  # type: ignore[misc]
    assert kept.shape == (200, 3, 50)
    assert (kept[..., 1:] > kept[..., :-1]).all()
    assert kept.min() == 0
    assert kept.max() == 99
    # Each of 600 rows keeps a token with probability 1/2: 5 standard deviations are 61.
    counts = kept.flatten().bincount(minlength=100)
    assert counts.min() > 300 - 62
    assert counts.max() < 300 + 62
    assert not torch.equal(kept[0, 0], kept[0, 1])


@pytest.mark.parametrize(("ratio", "expected"), [(0.25, 25), (0.5, 50), (1.0, 100), (0.001, 1)])
def test_mask_ratio_is_the_fraction_kept(ratio: float, expected: int) -> None:
    assert num_kept(build(mask_ratio=ratio)) == expected


def test_the_mode_range_draws_the_fraction() -> None:
    module = build(mask_mode="range", ratio_lower=0.2, ratio_upper=0.6)
    numbers = [num_kept(module) for _ in range(300)]
    assert 20 <= min(numbers) < 25
    assert 55 < max(numbers) <= 60


def test_steps_are_skipped_with_the_given_probability() -> None:
    module = build(skip_percentage=0.25)
    skipped = sum(module.draw_kept(1, 8) is None for _ in range(400))
    assert 57 <= skipped <= 143
    assert build(skip_percentage=1.0).draw_kept(1, 8) is None


def test_a_seed_draws_the_same_tokens() -> None:
    module = build()
    torch.manual_seed(5)
    first = module.draw_kept(2, 30)
    torch.manual_seed(5)
    assert torch.equal(first, module.draw_kept(2, 30))  # type: ignore[arg-type]


def test_other_resamplers_drop_nothing() -> None:
    assert ResamplerModule({"type": "mlp"}, input_dim=4, latent_dim=4).train().draw_kept(2, 9) is None


def test_bounds_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"ratio_lower of 'masked_drop' is 0\.8, over ratio_upper 0\.7"):
        build(ratio_lower=0.8)
