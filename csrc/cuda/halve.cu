// cora::halve on CUDA devices: a thread makes one texel.
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>

#include "../halve.h"

namespace cora {
namespace {

constexpr int kThreads = 256;

// Texels [0, count) of the wanted rows of all panoramas; `rows` and `columns` are those of the result.
__global__ void __launch_bounds__(kThreads) halve_kernel(
    const uint8_t* __restrict__ source, uint8_t* __restrict__ target, int64_t count, int64_t first_row, int64_t wanted,
    int64_t rows, int64_t columns) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= count) return;
  const int64_t line = index / columns;
  const int64_t column = index % columns;
  const int64_t row = line / wanted * rows + first_row + line % wanted;
  // The six bytes of two neighbours start at an even address.
  const int64_t stride = 2 * columns * 3;
  const ushort* upper = reinterpret_cast<const ushort*>(source + 2 * row * stride + column * 6);
  const ushort* lower = reinterpret_cast<const ushort*>(source + (2 * row + 1) * stride + column * 6);
  uint8_t texels[2][6];
  for (int pair = 0; pair < 3; ++pair) {
    const ushort above = __ldg(upper + pair);
    const ushort below = __ldg(lower + pair);
    texels[0][2 * pair] = above & 0xff;
    texels[0][2 * pair + 1] = above >> 8;
    texels[1][2 * pair] = below & 0xff;
    texels[1][2 * pair + 1] = below >> 8;
  }
  uint8_t* out = target + (row * columns + column) * 3;
  for (int channel = 0; channel < 3; ++channel) {
    const int sum = texels[0][channel] + texels[0][channel + 3] + texels[1][channel] + texels[1][channel + 3];
    out[channel] = static_cast<uint8_t>((sum + 2) >> 2);
  }
}

Tensor halve_cuda(const Tensor& panoramas, int64_t first_row, int64_t last_row) {
  const auto device = panoramas.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const auto stream = static_cast<cudaStream_t>(torch::stable::accelerator::getCurrentStream(device).nativeHandle());
  const Tensor halves = check_halve(panoramas, first_row, last_row);
  const int64_t wanted = last_row - first_row;
  const int64_t count = halves.size(0) * wanted * halves.size(2);
  if (count == 0) return halves;
  const auto blocks = static_cast<unsigned int>((count + kThreads - 1) / kThreads);
  halve_kernel<<<blocks, kThreads, 0, stream>>>(
      static_cast<const uint8_t*>(panoramas.const_data_ptr()), static_cast<uint8_t*>(halves.mutable_data_ptr()), count,
      first_row, wanted, halves.size(1), halves.size(2));
  const cudaError_t launched = cudaGetLastError();
  STD_TORCH_CHECK(launched == cudaSuccess, "halve: ", cudaGetErrorString(launched));
  return halves;
}

}  // namespace
}  // namespace cora

STABLE_TORCH_LIBRARY_IMPL(cora, CUDA, library) { library.impl("halve", TORCH_BOX(&cora::halve_cuda)); }
