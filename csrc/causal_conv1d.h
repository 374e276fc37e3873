// The arguments of cora::causal_conv1d_forward and cora::causal_conv1d_backward and their checks, shared by the CPU and
// the CUDA implementation.
//
// Shapes: B batch, L positions, G directions, E channels of a direction, W weights of a channel. Channels lie side by
// side.
#pragma once

#include "sequence.h"

namespace cora {

constexpr int64_t kMinConvWidth = 2, kMaxConvWidth = 4;

// The arguments of a convolution, checked; the tensors must outlive it.
struct Conv {
  int64_t batch, length, directions, channels, width;
  bool silu;
  std::vector<int64_t> reversed;  // for each direction, whether the weights reach to later positions
  Sequence x;
  const float* weight;  // [G, E, W]; the last one meets the position itself
  const float* bias;    // [G, E], or null
};

// What a convolution of some channels adds to the gradients of its parameters.
struct ConvGradients {
  Sequence x;
  float* weight;  // [G, E, W]
  float* bias;    // [G, E]
};

inline Conv check_conv(
    const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, bool silu,
    const std::vector<int64_t>& reversed) {
  Conv conv;
  check_kernel_dtype(x, "causal_conv1d: x");
  STD_TORCH_CHECK(x.dim() == 4 && x.size(1) >= 1, "causal_conv1d: x is [B, L, G, E] with L at least 1");
  STD_TORCH_CHECK(weight.dim() == 3, "causal_conv1d: the weight is [G, E, W]");
  conv.batch = x.size(0);
  conv.length = x.size(1);
  conv.directions = x.size(2);
  conv.channels = x.size(3);
  conv.width = weight.size(2);
  conv.silu = silu;
  conv.reversed = reversed;
  STD_TORCH_CHECK(
      conv.width >= kMinConvWidth && conv.width <= kMaxConvWidth, "causal_conv1d: a channel has 2, 3 or 4 weights");
  STD_TORCH_CHECK(
      static_cast<int64_t>(reversed.size()) == conv.directions,
      "causal_conv1d: every direction says whether it is reversed");
  conv.x = check_sequence(x, x, "causal_conv1d: x");
  conv.weight = check_parameter(weight, {conv.directions, conv.channels, conv.width}, x, "causal_conv1d: the weight");
  conv.bias = bias.has_value() ? check_parameter(*bias, {conv.directions, conv.channels}, x, "causal_conv1d: the bias")
                               : nullptr;
  return conv;
}

}  // namespace cora
