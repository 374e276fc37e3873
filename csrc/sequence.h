// Tensors [B, L, G, E] - a batch, positions, directions, channels of a direction - and the checks of arguments that the
// operations on them share.
//
// Channels lie side by side, so that eight of them, or a warp, read one cache line.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace cora {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Its data and strides; no data where the tensor is left out.
struct Sequence {
  void* data = nullptr;
  int64_t batch_stride = 0;
  int64_t position_stride = 0;
  int64_t direction_stride = 0;

  template <typename T>
#if defined(__CUDACC__)
  __host__ __device__
#endif
      T* at(int64_t batch, int64_t position, int64_t direction) const {
    return static_cast<T*>(data) + batch * batch_stride + position * position_stride + direction * direction_stride;
  }
};

inline Sequence sequence_of(const Tensor& tensor) {
  return {const_cast<void*>(tensor.const_data_ptr()), tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

inline float* floats_of(const Tensor& tensor) { return static_cast<float*>(tensor.mutable_data_ptr()); }

inline void check_kernel_dtype(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(
      tensor.scalar_type() == ScalarType::Float || tensor.scalar_type() == ScalarType::BFloat16 ||
          tensor.scalar_type() == ScalarType::Half,
      name, " is float32, bfloat16 or float16");
}

inline Sequence check_sequence(const Tensor& tensor, const Tensor& like, const char* name) {
  STD_TORCH_CHECK(tensor.dim() == 4, name, " is [B, L, G, E]");
  for (int64_t dim = 0; dim < 4; ++dim) {
    STD_TORCH_CHECK(tensor.size(dim) == like.size(dim), name, " has another shape than the input");
  }
  STD_TORCH_CHECK(
      tensor.scalar_type() == like.scalar_type() && tensor.device() == like.device(), name,
      " has another dtype or device than the input");
  STD_TORCH_CHECK(
      tensor.size(3) == 1 || tensor.stride(3) == 1 || tensor.numel() == 0, "the channels of ", name,
      " lie side by side");
  return sequence_of(tensor);
}

inline const float* check_parameter(
    const Tensor& tensor, const std::vector<int64_t>& shape, const Tensor& like, const char* name) {
  bool fits = tensor.dim() == static_cast<int64_t>(shape.size()) && tensor.scalar_type() == ScalarType::Float &&
              tensor.is_contiguous() && tensor.device() == like.device();
  for (size_t dim = 0; fits && dim < shape.size(); ++dim) fits = tensor.size(static_cast<int64_t>(dim)) == shape[dim];
  STD_TORCH_CHECK(fits, name, " is contiguous float32 on the input's device and fits it in shape");
  return static_cast<const float*>(tensor.const_data_ptr());
}

}  // namespace cora
