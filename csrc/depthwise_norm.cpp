// cora::depthwise_norm_forward and cora::depthwise_norm_backward on the CPU: a task is a view.
#include "depthwise_norm.h"

#include <cmath>
#include <tuple>

#define CORA_KERNELS "depthwise_norm_kernels.h"
#include "for_each_instruction_set.h"

namespace cora {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

// Takes weights [C, K, K] to [groups, K, K, lanes]; backwards in both directions for the gradient of x.
std::vector<float> pack_weights(const DepthwiseNorm& op, const Tensor& weight, bool backwards) {
  const int64_t taps = op.taps(), lanes = CORA_FASTEST(kLanes);
  std::vector<float> packed((op.channels + lanes - 1) / lanes * taps * lanes);
  const float* source = static_cast<const float*>(weight.const_data_ptr());
  for (int64_t channel = 0; channel < op.channels; ++channel) {
    float* target = packed.data() + channel / lanes * taps * lanes + channel % lanes;
    for (int64_t tap = 0; tap < taps; ++tap) {
      const int64_t place = backwards ? taps - 1 - tap : tap;
      target[place * lanes] = source[channel * taps + tap];
    }
  }
  return packed;
}

// The other way, for gradients.
void unpack_weights(const DepthwiseNorm& op, const std::vector<float>& packed, float* target) {
  const int64_t taps = op.taps(), lanes = CORA_FASTEST(kLanes);
  for (int64_t channel = 0; channel < op.channels; ++channel) {
    const float* source = packed.data() + channel / lanes * taps * lanes + channel % lanes;
    for (int64_t tap = 0; tap < taps; ++tap) target[channel * taps + tap] = source[tap * lanes];
  }
}

template <typename T>
void forward_all(const DepthwiseNorm& op, const TokenGrid& y, const Normalised& kept) {
  const auto forward = op.size == 3   ? CORA_FASTEST(forward_view_3x3<T>)
                       : op.size == 5 ? CORA_FASTEST(forward_view<5, T>)
                                      : CORA_FASTEST(forward_view<7, T>);
  torch::stable::parallel_for(0, op.views, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> room;
    for (int64_t view = begin; view < end; ++view) forward(op, y, kept, view, room);
  });
}

// The result; then, where they are to be kept, what the backward pass needs of each token.
std::tuple<Tensor, Tensor, Tensor> depthwise_norm_forward(
    const Tensor& x, const Tensor& weight, std::optional<Tensor> bias, const Tensor& norm_weight,
    const Tensor& norm_bias, double eps, bool keep) {
  DepthwiseNorm op = check_depthwise_norm(x, weight, bias, norm_weight, norm_bias, eps);
  op.weights = pack_weights(op, weight, false);
  const int64_t kept_views = keep ? op.views : 0;
  const Tensor y = torch::stable::new_empty(x, {op.views, op.height, op.width, op.channels});
  const Tensor normal = torch::stable::new_empty(x, {kept_views, op.height, op.width, op.channels});
  const Tensor factors = torch::stable::new_empty(weight, {kept_views, op.height, op.width});
  Normalised kept = {grid_of(normal), floats_of(factors)};
  if (!keep) kept.values.data = nullptr;
  if (x.scalar_type() == ScalarType::Float) {
    forward_all<float>(op, grid_of(y), kept);
  } else if (x.scalar_type() == ScalarType::Half) {
    forward_all<Half>(op, grid_of(y), kept);
  } else {
    forward_all<BFloat16>(op, grid_of(y), kept);
  }
  return {y, normal, factors};
}

template <typename T>
void backward_all(
    const DepthwiseNorm& op, const TokenGrid& y_grad, const Normalised& kept, const DepthwiseNormGradients& grads,
    float* weight_grad) {
  const auto backward = op.size == 3   ? CORA_FASTEST(backward_view<3, T>)
                        : op.size == 5 ? CORA_FASTEST(backward_view<5, T>)
                                       : CORA_FASTEST(backward_view<7, T>);
  const int64_t parts = std::min(kBatchParts, op.views);
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> room;
    for (int64_t part = begin; part < end; ++part) {
      std::vector<float> weight_grads(op.weights.size());
      DepthwiseNormGradients own = grads;
      own.weights = weight_grads.data();
      own.bias += part * op.channels;
      own.norm_weight += part * op.channels;
      own.norm_bias += part * op.channels;
      const int64_t last = (part + 1) * op.views / parts;
      for (int64_t view = part * op.views / parts; view < last; ++view) backward(op, y_grad, kept, own, view, room);
      unpack_weights(op, weight_grads, weight_grad + part * op.channels * op.taps());
    }
  });
}

// The gradient of x, then those of the four parameters for each part of the views: the caller adds them up.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> depthwise_norm_backward(
    const Tensor& y_grad, const Tensor& x, const Tensor& weight, const Tensor& norm_weight, const Tensor& normal,
    const Tensor& factors) {
  // Neither the two biases nor eps matter here.
  DepthwiseNorm op = check_depthwise_norm(x, weight, std::nullopt, norm_weight, norm_weight, 0);
  op.weights = pack_weights(op, weight, true);
  const TokenGrid output = check_grid(y_grad, x, "depthwise_norm: the gradient of y");
  const Normalised kept = {check_grid(normal, x, "depthwise_norm: what was kept"), floats_of(factors)};
  check_parameter(factors, {op.views, op.height, op.width}, x, "depthwise_norm: the factors");
  const int64_t parts = std::min(kBatchParts, op.views);
  const Tensor x_grad = torch::stable::new_empty(x, {op.views, op.height, op.width, op.channels});
  const Tensor weight_grad = torch::stable::new_empty(weight, {parts, op.channels, op.size, op.size});
  const Tensor bias_grad = torch::stable::new_zeros(weight, {parts, op.channels});
  const Tensor norm_weight_grad = torch::stable::new_zeros(weight, {parts, op.channels});
  const Tensor norm_bias_grad = torch::stable::new_zeros(weight, {parts, op.channels});
  const DepthwiseNormGradients grads = {
      grid_of(x_grad), nullptr, floats_of(bias_grad), floats_of(norm_weight_grad), floats_of(norm_bias_grad)};
  if (x.scalar_type() == ScalarType::Float) {
    backward_all<float>(op, output, kept, grads, floats_of(weight_grad));
  } else if (x.scalar_type() == ScalarType::Half) {
    backward_all<Half>(op, output, kept, grads, floats_of(weight_grad));
  } else {
    backward_all<BFloat16>(op, output, kept, grads, floats_of(weight_grad));
  }
  return {x_grad, weight_grad, bias_grad, norm_weight_grad, norm_bias_grad};
}

}  // namespace
}  // namespace cora

STABLE_TORCH_LIBRARY_IMPL(cora, CPU, library) {
  library.impl("depthwise_norm_forward", TORCH_BOX(&cora::depthwise_norm_forward));
  library.impl("depthwise_norm_backward", TORCH_BOX(&cora::depthwise_norm_backward));
}
