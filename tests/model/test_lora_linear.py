"""The LoRA layer in one product against PEFT's own, in values, gradients and work."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cora.model.lora_linear import SummedLoraLinear, sum_is_less_work

IN, OUT, RANK = 24, 40, 12


def make_pair(*, rank: int = RANK, dropout: float = 0.0) -> tuple[Linear, Linear]:
    """Return PEFT's layer and ours with the same weights."""
    torch.manual_seed(0)
    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=dropout)
    base = nn.Linear(IN, OUT).requires_grad_(False)
    pair = tuple(
        kind(base, "default", config=config, r=rank, lora_alpha=2 * rank) for kind in (Linear, SummedLoraLinear)
    )
    nn.init.normal_(pair[0].lora_B["default"].weight)
    pair[1].load_state_dict(pair[0].state_dict())
    return pair[0], pair[1]


def run(layer: Linear, tokens: Tensor) -> list[Tensor]:
    """Return the output, and the gradients of the input and the adapter."""
    tokens = tokens.clone().requires_grad_(True)
    layer.zero_grad()
    output = layer(tokens)
    output.square().sum().backward()
    gradients = [tokens.grad, layer.lora_A["default"].weight.grad, layer.lora_B["default"].weight.grad]
    return [output, *(item for item in gradients if item is not None)]


def flops(layer: Linear, tokens: Tensor) -> int:
    with FlopCounterMode(display=False) as counter:
        run(layer, tokens)
    return int(counter.get_total_flops())


def test_values_and_gradients_are_those_of_peft() -> None:
    theirs, ours = make_pair()
    tokens = torch.randn(3, 50, IN)
    assert ours._is_summed(tokens)
    assert len(run(ours, tokens)) == 4
    for one, other in zip(run(ours, tokens), run(theirs, tokens), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [1, 4, 5, 6, 12])
@pytest.mark.parametrize("num_tokens", [1, 10, 200])
def test_the_sum_is_taken_where_a_step_is_less_work_by_it(
    rank: int, num_tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = make_pair(rank=rank)
    tokens = torch.randn(num_tokens, IN)
    with monkeypatch.context() as patch:
        patch.setattr("cora.model.lora_linear.sum_is_less_work", lambda *sizes: True)
        summed = flops(ours, tokens)
    assert sum_is_less_work(num_tokens, IN, OUT, rank) == (summed < flops(theirs, tokens))


def test_dropout_and_lower_precision_are_left_to_peft() -> None:
    tokens = torch.randn(50, IN)
    _, dropping = make_pair(dropout=0.5)
    assert not dropping.train()._is_summed(tokens)
    assert dropping.eval()._is_summed(tokens)
    _, ours = make_pair()
    with torch.autocast("cpu", torch.bfloat16):
        assert not ours._is_summed(tokens)
    assert not ours.bfloat16()._is_summed(tokens.bfloat16())
    ours.float().merge()
    assert not ours._is_summed(tokens)
