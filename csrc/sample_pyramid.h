// Checks that the CPU and the CUDA implementation of cora::sample_pyramid share.
//
// Written against torch's stable ABI: one binary serves several versions of torch, and the CUDA file compiles against
// the headers of a CPU build too.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "pyramid.h"

namespace cora {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Returns pointers and sizes of contiguous levels; the tensors must outlive the result.
inline Pyramid check_pyramid(const std::vector<Tensor>& levels, const Tensor& positions, int64_t samples) {
  STD_TORCH_CHECK(
      !levels.empty() && levels.size() <= static_cast<size_t>(kMaxLevels), "sample_pyramid: 1 to ", kMaxLevels,
      " levels are needed, got ", levels.size());
  STD_TORCH_CHECK(
      positions.dim() == 3 && positions.size(2) == 3 && positions.scalar_type() == ScalarType::Float,
      "sample_pyramid: positions are float32[h * samples, w * samples, 3]");
  STD_TORCH_CHECK(
      samples >= 1 && positions.size(0) % samples == 0 && positions.size(1) % samples == 0,
      "sample_pyramid: positions of ", positions.size(0), " x ", positions.size(1),
      " are not divisible by samples = ", samples);
  Pyramid pyramid;
  pyramid.count = static_cast<int32_t>(levels.size());
  for (int32_t number = 0; number < pyramid.count; ++number) {
    const Tensor& level = levels[number];
    STD_TORCH_CHECK(
        level.dim() == 3 && level.size(2) == kChannels && level.scalar_type() == ScalarType::Float && level.numel() > 0,
        "sample_pyramid: level ", number, " is float32[H, W, 3]");
    STD_TORCH_CHECK(
        level.device() == positions.device(), "sample_pyramid: level ", number,
        " is on another device than the positions");
    pyramid.texels[number] = static_cast<const float*>(level.const_data_ptr());
    pyramid.height[number] = static_cast<int32_t>(level.size(0));
    pyramid.width[number] = static_cast<int32_t>(level.size(1));
  }
  return pyramid;
}

inline double level_of_panorama(const Pyramid& pyramid) {
  return 0.5 * std::log2(static_cast<double>(pyramid.height[0]) * pyramid.width[0]);
}

inline std::vector<Tensor> contiguous_levels(const std::vector<Tensor>& levels) {
  std::vector<Tensor> result;
  result.reserve(levels.size());
  for (const Tensor& level : levels) result.push_back(torch::stable::contiguous(level));
  return result;
}

}  // namespace cora
