// The arguments of cora::depthwise_norm_forward and cora::depthwise_norm_backward and their checks.
//
// Shapes: N views, H rows and W columns of tokens, C channels, which lie side by side; K x K weights of a channel.
#pragma once

#include "channel_blocks.h"

namespace cora {

// Tokens [N, H, W, C]: their data and strides.
struct TokenGrid {
  void* data;
  int64_t view_stride, row_stride, column_stride;

  template <typename T>
#if defined(__CUDACC__)
  __host__ __device__
#endif
      T* at(int64_t view, int64_t row, int64_t column) const {
    return static_cast<T*>(data) + view * view_stride + row * row_stride + column * column_stride;
  }
};

// The arguments of the operation, checked; the tensors must outlive it.
struct DepthwiseNorm {
  int64_t views, height, width, channels, size;  // size: K
  TokenGrid x;
  const float* bias;         // [C], or null
  const float* norm_weight;  // [C]
  const float* norm_bias;    // [C]
  float eps;
  std::vector<float> weights;  // [groups, K, K, lanes]: a group of channels side by side, those beyond the last 0

  int64_t taps() const { return size * size; }
};

// What is kept of the forward pass: each token's values before the last scaling, and the factor that made them so.
struct Normalised {
  TokenGrid values;  // without data where nothing is kept
  float* factors;    // [N, H, W]
};

// What some views add to the gradients of the parameters.
struct DepthwiseNormGradients {
  TokenGrid x;
  float* weights;      // [groups, K, K, lanes]
  float* bias;         // [C]
  float* norm_weight;  // [C]
  float* norm_bias;    // [C]
};

inline TokenGrid grid_of(const Tensor& tensor) {
  return {const_cast<void*>(tensor.const_data_ptr()), tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

inline TokenGrid check_grid(const Tensor& tensor, const Tensor& like, const char* name) {
  check_sequence(tensor, like, name);
  return grid_of(tensor);
}

inline DepthwiseNorm check_depthwise_norm(
    const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, const Tensor& norm_weight,
    const Tensor& norm_bias, double eps) {
  check_kernel_dtype(x, "depthwise_norm: x");
  STD_TORCH_CHECK(x.dim() == 4 && x.size(3) >= 1, "depthwise_norm: x is [N, H, W, C]");
  STD_TORCH_CHECK(weight.dim() == 3, "depthwise_norm: the weight is [C, K, K]");
  const int64_t channels = x.size(3), size = weight.size(2);
  STD_TORCH_CHECK(size == 3 || size == 5 || size == 7, "depthwise_norm: K is 3, 5 or 7");
  check_parameter(weight, {channels, size, size}, x, "depthwise_norm: the weight");
  return {
      x.size(0),
      x.size(1),
      x.size(2),
      channels,
      size,
      check_grid(x, x, "depthwise_norm: x"),
      bias.has_value() ? check_parameter(*bias, {channels}, x, "depthwise_norm: the bias") : nullptr,
      check_parameter(norm_weight, {channels}, x, "depthwise_norm: the weight of the norm"),
      check_parameter(norm_bias, {channels}, x, "depthwise_norm: the bias of the norm"),
      static_cast<float>(eps),
      {}};
}

}  // namespace cora
