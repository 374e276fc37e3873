// cora::sample_views on CUDA devices: the arithmetic of taps.h.
//
// A thread owns one pixel of one panorama for all views of a ring, so that its taps are read once.
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>

#include "../sample_views.h"

namespace cora {
namespace {

constexpr int kThreads = 256;
constexpr int kViewsPerLaunch = 64;

// Passed by value: a kernel's argument may hold it, and nothing needs copying to the device.
struct Shifts {
  int32_t of_view[kViewsPerLaunch];
};

template <typename T>
__global__ void __launch_bounds__(kThreads)
    sample_views_kernel(SampleViews call, Shifts shifts, int views, T* __restrict__ out) {
  const int64_t pixel = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (pixel >= call.pixels) return;
  const int64_t image = blockIdx.y;
  Panorama panorama = call.panorama;
  panorama.texels += image * panorama.height * panorama.width * kChannels;
  T* target = out + image * call.batch_stride + pixel;
  const int64_t first = pixel * call.samples;
  for (int view = 0; view < views; ++view) {
    int32_t sum[kChannels] = {0, 0, 0};
    for (int64_t tap = first; tap < first + call.samples; ++tap) {
      // Four weights are eight bytes, read at once; from the second view on they come from the cache.
      const short4 packed = __ldg(reinterpret_cast<const short4*>(call.weights) + tap);
      const int16_t weights[4] = {packed.x, packed.y, packed.z, packed.w};
      add_sample(panorama, __ldg(call.taps + tap), weights, shifts.of_view[view], sum);
    }
    for (int channel = 0; channel < kChannels; ++channel) {
      const float value =
          fmaf(static_cast<float>(sum[channel]), call.normalisation.scale[channel], call.normalisation.offset[channel]);
      target[view * call.view_stride + channel * call.channel_stride] = static_cast<T>(value);
    }
  }
}

template <typename T>
void launch(const SampleViews& call, const std::vector<int64_t>& all_shifts, cudaStream_t stream) {
  const dim3 blocks(
      static_cast<unsigned int>((call.pixels + kThreads - 1) / kThreads), static_cast<unsigned int>(call.batch));
  for (int64_t first = 0; first < call.views; first += kViewsPerLaunch) {
    const int views = static_cast<int>(std::min<int64_t>(kViewsPerLaunch, call.views - first));
    Shifts shifts;
    for (int view = 0; view < views; ++view) shifts.of_view[view] = static_cast<int32_t>(all_shifts[first + view]);
    sample_views_kernel<T>
        <<<blocks, kThreads, 0, stream>>>(call, shifts, views, static_cast<T*>(call.out) + first * call.view_stride);
    const cudaError_t launched = cudaGetLastError();
    STD_TORCH_CHECK(launched == cudaSuccess, "sample_views: ", cudaGetErrorString(launched));
  }
}

void sample_views_cuda(
    const Tensor& panoramas, const Tensor& taps, const Tensor& weights, std::vector<int64_t> shifts,
    std::vector<double> scale, std::vector<double> offset, const Tensor& out) {
  const auto device = panoramas.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const auto stream = static_cast<cudaStream_t>(torch::stable::accelerator::getCurrentStream(device).nativeHandle());
  const SampleViews call = check_sample_views(panoramas, taps, weights, shifts, scale, offset, out);
  STD_TORCH_CHECK(call.batch < 65536, "sample_views: at most 65535 panoramas at a time, got ", call.batch);
  if (call.batch == 0) return;
  if (out.scalar_type() == ScalarType::Float) {
    launch<float>(call, shifts, stream);
  } else if (out.scalar_type() == ScalarType::Half) {
    launch<torch::headeronly::Half>(call, shifts, stream);
  } else {
    launch<torch::headeronly::BFloat16>(call, shifts, stream);
  }
}

}  // namespace
}  // namespace cora

STABLE_TORCH_LIBRARY_IMPL(cora, CUDA, library) { library.impl("sample_views", TORCH_BOX(&cora::sample_views_cuda)); }
