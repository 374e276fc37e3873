// cora::sample_views on CUDA devices: one thread a view pixel, the arithmetic of taps.h.
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>

#include "../sample_views.h"

namespace cora {
namespace {

constexpr int kThreads = 256;

__global__ void sample_views_kernel(SampleViews call, int32_t shift, float* __restrict__ out) {
  const int64_t pixel = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (pixel >= call.pixels) return;
  const int64_t first = pixel * call.samples;
  sample_pixel(
      call.panorama, call.taps + first, call.weights + 2 * first, call.samples, shift, call.normalisation, call.pixels,
      out + pixel);
}

void sample_views_cuda(
    const Tensor& panorama, const Tensor& taps, const Tensor& weights, std::vector<int64_t> shifts,
    std::vector<double> scale, std::vector<double> offset, const Tensor& out) {
  const auto device = panorama.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const auto stream = static_cast<cudaStream_t>(torch::stable::accelerator::getCurrentStream(device).nativeHandle());
  const SampleViews call = check_sample_views(panorama, taps, weights, shifts, scale, offset, out);
  const auto blocks = static_cast<unsigned int>((call.pixels + kThreads - 1) / kThreads);
  for (int64_t view = 0; view < call.views; ++view) {
    sample_views_kernel<<<blocks, kThreads, 0, stream>>>(
        call, static_cast<int32_t>(shifts[view]), call.out + view * kChannels * call.pixels);
    const cudaError_t launched = cudaGetLastError();
    STD_TORCH_CHECK(launched == cudaSuccess, "sample_views: ", cudaGetErrorString(launched));
  }
}

}  // namespace
}  // namespace cora

STABLE_TORCH_LIBRARY_IMPL(cora, CUDA, library) { library.impl("sample_views", TORCH_BOX(&cora::sample_views_cuda)); }
