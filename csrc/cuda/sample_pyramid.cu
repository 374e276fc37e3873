// cora::sample_pyramid on CUDA devices: one thread a view pixel, the arithmetic of pyramid.h.
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>

#include "../sample_pyramid.h"

namespace cora {
namespace {

constexpr int kThreads = 256;

__global__ void sample_pyramid_kernel(
    Pyramid pyramid, const float* __restrict__ positions, float* __restrict__ picture, int64_t rows, int64_t columns,
    int64_t samples, double turn, double level_offset) {
  const int64_t pixel = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (pixel >= rows * columns) return;
  float sum[kChannels];
  sample_pixel(pyramid, positions, columns, samples, pixel / columns, pixel % columns, turn, level_offset, sum);
  for (int channel = 0; channel < kChannels; ++channel) picture[channel * rows * columns + pixel] = sum[channel];
}

Tensor sample_pyramid_cuda(
    std::vector<Tensor> levels, const Tensor& positions, std::vector<double> turns, int64_t samples) {
  const auto device = positions.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const auto stream = static_cast<cudaStream_t>(torch::stable::accelerator::getCurrentStream(device).nativeHandle());
  const std::vector<Tensor> texels = contiguous_levels(levels);
  const Tensor grid = torch::stable::contiguous(positions);
  const Pyramid pyramid = check_pyramid(texels, grid, samples);
  const double level_offset = level_of_panorama(pyramid);
  const int64_t views = static_cast<int64_t>(turns.size());
  const int64_t rows = grid.size(0) / samples;
  const int64_t columns = grid.size(1) / samples;
  const Tensor pictures = torch::stable::new_empty(grid, {views, kChannels, rows, columns});
  const auto blocks = static_cast<unsigned int>((rows * columns + kThreads - 1) / kThreads);
  const float* grid_data = static_cast<const float*>(grid.const_data_ptr());
  float* out = static_cast<float*>(pictures.mutable_data_ptr());
  for (int64_t view = 0; view < views && blocks > 0; ++view) {
    sample_pyramid_kernel<<<blocks, kThreads, 0, stream>>>(
        pyramid, grid_data, out + view * kChannels * rows * columns, rows, columns, samples, turns[view], level_offset);
    const cudaError_t launched = cudaGetLastError();
    STD_TORCH_CHECK(launched == cudaSuccess, "sample_pyramid: ", cudaGetErrorString(launched));
  }
  return pictures;
}

}  // namespace
}  // namespace cora

STABLE_TORCH_LIBRARY_IMPL(cora, CUDA, library) {
  library.impl("sample_pyramid", TORCH_BOX(&cora::sample_pyramid_cuda));
}
