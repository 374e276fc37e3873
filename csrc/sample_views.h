// The arguments of cora::sample_views and their checks, shared by the CPU and the CUDA implementation.
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

// Taps of a pixel: at most 16 along either axis, so that their sum fits into 32 bits.
constexpr int64_t kMostSamples = 256;

// The arguments of an operation, checked; the tensors must outlive it.
struct SampleViews {
  Panorama panorama;  // the first of the batch; the others follow without a gap
  Normalisation normalisation;
  const int32_t* taps;
  const int16_t* weights;
  void* out;
  int64_t batch;
  int64_t views;
  int64_t pixels;        // of one view
  int64_t samples;       // of one pixel
  int64_t batch_stride;  // of `out`, in elements; the pixels of a channel lie side by side
  int64_t view_stride;
  int64_t channel_stride;
};

inline SampleViews check_sample_views(
    const Tensor& panoramas, const Tensor& taps, const Tensor& weights, const std::vector<int64_t>& shifts,
    const std::vector<double>& scale, const std::vector<double>& offset, const Tensor& out) {
  STD_TORCH_CHECK(
      panoramas.dim() == 4 && panoramas.size(3) == kChannels && panoramas.scalar_type() == ScalarType::Byte &&
          panoramas.is_contiguous() && panoramas.size(1) >= 2 && panoramas.size(2) >= 2 && panoramas.size(1) < 32766 &&
          panoramas.size(2) < 65536,
      "sample_views: the panoramas are a contiguous uint8[B, H, W, 3] with H below 32766 and W below 65536");
  STD_TORCH_CHECK(
      out.dim() == 5 && out.size(0) == panoramas.size(0) && out.size(1) == static_cast<int64_t>(shifts.size()) &&
          out.size(2) == kChannels && (out.size(4) == 1 || out.stride(4) == 1) &&
          (out.size(3) == 1 || out.stride(3) == out.size(4)) &&
          (out.scalar_type() == ScalarType::Float || out.scalar_type() == ScalarType::BFloat16 ||
           out.scalar_type() == ScalarType::Half),
      "sample_views: out is float32, bfloat16 or float16 [B, V, 3, h, w] with the pixels of a channel side by side, "
      "one "
      "view for each shift");
  const int64_t pixels = out.size(3) * out.size(4);
  STD_TORCH_CHECK(
      taps.dim() == 1 && taps.scalar_type() == ScalarType::Int && taps.is_contiguous() && pixels > 0 &&
          taps.size(0) >= pixels && taps.size(0) % pixels == 0 && taps.size(0) / pixels <= kMostSamples,
      "sample_views: taps are a contiguous int32[h * w * samples] with at most 256 samples");
  STD_TORCH_CHECK(
      weights.dim() == 2 && weights.size(0) == taps.size(0) && weights.size(1) == 4 &&
          weights.scalar_type() == ScalarType::Short && weights.is_contiguous(),
      "sample_views: weights are a contiguous int16[h * w * samples, 4]");
  STD_TORCH_CHECK(
      taps.device() == panoramas.device() && weights.device() == panoramas.device() &&
          out.device() == panoramas.device(),
      "sample_views: the tensors are on different devices");
  STD_TORCH_CHECK(
      scale.size() == kChannels && offset.size() == kChannels, "sample_views: scale and offset have three channels");
  for (const int64_t shift : shifts) {
    STD_TORCH_CHECK(
        shift >= 0 && shift < panoramas.size(2), "sample_views: shift ", shift, " is not a column of the panorama");
  }
  SampleViews call;
  call.panorama = {
      static_cast<const uint8_t*>(panoramas.const_data_ptr()), static_cast<int32_t>(panoramas.size(1)),
      static_cast<int32_t>(panoramas.size(2))};
  call.taps = static_cast<const int32_t*>(taps.const_data_ptr());
  call.weights = static_cast<const int16_t*>(weights.const_data_ptr());
  call.out = out.mutable_data_ptr();
  call.batch = panoramas.size(0);
  call.views = out.size(1);
  call.pixels = pixels;
  call.samples = taps.size(0) / pixels;
  call.batch_stride = out.stride(0);
  call.view_stride = out.stride(1);
  call.channel_stride = out.stride(2);
  for (int channel = 0; channel < kChannels; ++channel) {
    call.normalisation.scale[channel] = static_cast<float>(scale[channel] / (static_cast<double>(kOne) * call.samples));
    call.normalisation.offset[channel] = static_cast<float>(offset[channel]);
  }
  return call;
}

}  // namespace cora
