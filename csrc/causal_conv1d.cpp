// cora::causal_conv1d_forward and cora::causal_conv1d_backward on the CPU.
#include "causal_conv1d.h"

#include <tuple>

#include "channel_blocks.h"

#define CORA_KERNELS "causal_conv1d_kernels.h"
#include "for_each_instruction_set.h"

namespace cora {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

// Nothing but weights is kept from one position to the next, and whole rows are read fastest: they are cut no further
// than it takes to give each thread a task.
int64_t channels_per_task(const Conv& conv) {
  constexpr int64_t kMost = 2048;
  const int64_t rows = std::max<int64_t>(1, conv.batch * conv.directions);
  const int64_t pieces = (static_cast<int64_t>(torch::stable::get_num_threads()) + rows - 1) / rows;
  const int64_t blocks = count_blocks(conv.channels, pieces * kChannelsPerBlock);
  return std::clamp(blocks * kChannelsPerBlock, kChannelsPerBlock, kMost);
}

template <typename T>
void forward_all(const Conv& conv, const Sequence& y) {
  const auto forward = CORA_FASTEST(conv_forward<T>);
  const int64_t per_task = channels_per_task(conv);
  const int64_t blocks = conv.directions * count_blocks(conv.channels, per_task);
  torch::stable::parallel_for(0, conv.batch * blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> room;
    for (int64_t task = begin; task < end; ++task) {
      forward(conv, y, task / blocks, block_at(conv.directions, conv.channels, task % blocks, per_task), room);
    }
  });
}

Tensor causal_conv1d_forward(
    const Tensor& x, const Tensor& weight, std::optional<Tensor> bias, bool silu, std::vector<int64_t> reversed) {
  const Conv conv = check_conv(x, weight, bias, silu, reversed);
  const Tensor y = torch::stable::new_empty(x, {conv.batch, conv.length, conv.directions, conv.channels});
  if (x.scalar_type() == ScalarType::Float) {
    forward_all<float>(conv, sequence_of(y));
  } else if (x.scalar_type() == ScalarType::Half) {
    forward_all<Half>(conv, sequence_of(y));
  } else {
    forward_all<BFloat16>(conv, sequence_of(y));
  }
  return y;
}

template <typename T>
void backward_all(const Conv& conv, const Sequence& y_grad, const ConvGradients& grads) {
  const auto backward = CORA_FASTEST(conv_backward<T>);
  const int64_t blocks = conv.directions * count_blocks(conv.channels);
  const int64_t parts = std::min(kBatchParts, conv.batch);
  torch::stable::parallel_for(0, parts * blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> room;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t part = task / blocks;
      ConvGradients own = grads;
      own.weight += part * conv.directions * conv.channels * conv.width;
      own.bias += part * conv.directions * conv.channels;
      const int64_t first = part * conv.batch / parts, last = (part + 1) * conv.batch / parts;
      backward(conv, y_grad, own, first, last, block_at(conv.directions, conv.channels, task % blocks), room);
    }
  });
}

// The gradient of x, then those of the weight and the bias for each part of the batch: the caller adds them up.
std::tuple<Tensor, Tensor, Tensor> causal_conv1d_backward(
    const Tensor& y_grad, const Tensor& x, const Tensor& weight, std::optional<Tensor> bias, bool silu,
    std::vector<int64_t> reversed) {
  const Conv conv = check_conv(x, weight, bias, silu, reversed);
  const Sequence output = check_sequence(y_grad, x, "causal_conv1d: the gradient of y");
  const int64_t parts = std::min(kBatchParts, conv.batch);
  const Tensor x_grad = torch::stable::new_empty(x, {conv.batch, conv.length, conv.directions, conv.channels});
  const Tensor weight_grad = torch::stable::new_empty(weight, {parts, conv.directions, conv.channels, conv.width});
  const Tensor bias_grad = torch::stable::new_empty(weight, {parts, conv.directions, conv.channels});
  const ConvGradients grads = {sequence_of(x_grad), floats_of(weight_grad), floats_of(bias_grad)};
  if (x.scalar_type() == ScalarType::Float) {
    backward_all<float>(conv, output, grads);
  } else if (x.scalar_type() == ScalarType::Half) {
    backward_all<Half>(conv, output, grads);
  } else {
    backward_all<BFloat16>(conv, output, grads);
  }
  return {x_grad, weight_grad, bias_grad};
}

}  // namespace
}  // namespace cora

STABLE_TORCH_LIBRARY_IMPL(cora, CPU, library) {
  library.impl("causal_conv1d_forward", TORCH_BOX(&cora::causal_conv1d_forward));
  library.impl("causal_conv1d_backward", TORCH_BOX(&cora::causal_conv1d_backward));
}
