// The arguments of cora::halve and their checks, shared by the CPU and the CUDA implementation.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>

namespace cora {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Returns room for the halves.
inline Tensor check_halve(const Tensor& panoramas, int64_t first_row, int64_t last_row) {
  STD_TORCH_CHECK(
      panoramas.dim() == 4 && panoramas.size(3) == 3 && panoramas.scalar_type() == ScalarType::Byte &&
          panoramas.is_contiguous() && panoramas.size(1) >= 2 && panoramas.size(2) >= 2 && panoramas.size(1) % 2 == 0 &&
          panoramas.size(2) % 2 == 0,
      "halve: the panoramas are a contiguous uint8[B, H, W, 3] with even sides");
  STD_TORCH_CHECK(
      0 <= first_row && first_row <= last_row && last_row <= panoramas.size(1) / 2, "halve: rows ", first_row, " .. ",
      last_row, " are not rows of the result");
  return torch::stable::new_empty(
      panoramas, {panoramas.size(0), panoramas.size(1) / 2, panoramas.size(2) / 2, panoramas.size(3)});
}

}  // namespace cora
