// Checks that the CPU and the CUDA implementation of cora::sample_views share.
//
// Written against torch's stable ABI: one binary serves several versions of torch, and the CUDA file compiles against
// the headers of a CPU build too.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <vector>

#include "taps.h"

namespace cora {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The arguments of an operation, checked; the tensors must outlive it.
struct SampleViews {
  Panorama panorama;
  Normalisation normalisation;
  const int32_t* taps;
  const float* weights;
  float* out;
  int64_t views;
  int64_t pixels;   // of one view
  int64_t samples;  // of one pixel
};

inline SampleViews check_sample_views(
    const Tensor& panorama, const Tensor& taps, const Tensor& weights, const std::vector<int64_t>& shifts,
    const std::vector<double>& scale, const std::vector<double>& offset, const Tensor& out) {
  STD_TORCH_CHECK(
      panorama.dim() == 3 && panorama.size(2) == kChannels && panorama.scalar_type() == ScalarType::Byte &&
          panorama.is_contiguous() && panorama.size(0) >= 2 && panorama.size(1) >= 2 && panorama.size(0) < 32766 &&
          panorama.size(1) < 65536,
      "sample_views: the panorama is a contiguous uint8[H, W, 3] with H below 32766 and W below 65536");
  STD_TORCH_CHECK(
      out.dim() == 4 && out.size(1) == kChannels && out.scalar_type() == ScalarType::Float && out.is_contiguous() &&
          out.size(0) == static_cast<int64_t>(shifts.size()),
      "sample_views: out is a contiguous float32[V, 3, h, w], one view for each shift");
  const int64_t pixels = out.size(2) * out.size(3);
  STD_TORCH_CHECK(
      taps.dim() == 1 && taps.scalar_type() == ScalarType::Int && taps.is_contiguous() && pixels > 0 &&
          taps.size(0) >= pixels && taps.size(0) % pixels == 0,
      "sample_views: taps are a contiguous int32[h * w * samples]");
  STD_TORCH_CHECK(
      weights.dim() == 2 && weights.size(0) == taps.size(0) && weights.size(1) == 2 &&
          weights.scalar_type() == ScalarType::Float && weights.is_contiguous(),
      "sample_views: weights are a contiguous float32[h * w * samples, 2]");
  STD_TORCH_CHECK(
      taps.device() == panorama.device() && weights.device() == panorama.device() && out.device() == panorama.device(),
      "sample_views: the tensors are on different devices");
  STD_TORCH_CHECK(
      scale.size() == kChannels && offset.size() == kChannels, "sample_views: scale and offset have three channels");
  SampleViews result;
  result.panorama = {
      static_cast<const uint8_t*>(panorama.const_data_ptr()), static_cast<int32_t>(panorama.size(0)),
      static_cast<int32_t>(panorama.size(1))};
  for (const int64_t shift : shifts) {
    STD_TORCH_CHECK(
        shift >= 0 && shift < panorama.size(1), "sample_views: shift ", shift, " is not a column of the panorama");
  }
  for (int channel = 0; channel < kChannels; ++channel) {
    result.normalisation.scale[channel] = static_cast<float>(scale[channel]);
    result.normalisation.offset[channel] = static_cast<float>(offset[channel]);
  }
  result.taps = static_cast<const int32_t*>(taps.const_data_ptr());
  result.weights = static_cast<const float*>(weights.const_data_ptr());
  result.out = static_cast<float*>(out.mutable_data_ptr());
  result.views = out.size(0);
  result.pixels = pixels;
  result.samples = taps.size(0) / pixels;
  return result;
}

}  // namespace cora
