// Starting a kernel, and what the kernels on sequences compute with.
//
// tests/ops/cuda_on_host brings a cuda_runtime.h that runs a kernel's threads on the CPU; it replaces what stands here
// between the lines on CORA_ON_HOST.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstdint>

#if !defined(CORA_ON_HOST)
#include <torch/csrc/stable/accelerator.h>
#endif

namespace cora {

constexpr int kWarp = 32;
constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.69314718f;

#if !defined(CORA_ON_HOST)

// The memory that the threads of a block share, as much as it was launched with.
__device__ __forceinline__ float* shared_memory() {
  extern __shared__ float4 memory[];
  return reinterpret_cast<float*>(memory);
}

// 2^x with a relative error of 2^-22.5, 0 below 2^-126: one instruction of the special function unit.
__device__ __forceinline__ float exp2_special(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}

// Makes the device of a tensor the one that kernels are launched on, on the stream that torch uses there.
struct Launcher {
  torch::stable::accelerator::DeviceGuard guard;
  cudaStream_t stream;

  explicit Launcher(const torch::stable::Tensor& tensor)
      : guard(tensor.get_device_index()),
        stream(
            static_cast<cudaStream_t>(
                torch::stable::accelerator::getCurrentStream(tensor.get_device_index()).nativeHandle())) {}
};

// How much memory the threads of a block may share on the present device.
inline int64_t largest_shared_memory() {
  int device = 0, bytes = 0;
  cudaError_t known = cudaGetDevice(&device);
  if (known == cudaSuccess) known = cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  STD_TORCH_CHECK(known == cudaSuccess, "the memory that a block may share: ", cudaGetErrorString(known));
  return bytes;
}

template <typename... Parameters, typename... Arguments>
void launch(
    const char* name, void (*kernel)(Parameters...), int64_t blocks, dim3 threads, size_t shared_bytes,
    cudaStream_t stream, Arguments... arguments) {
  STD_TORCH_CHECK(blocks < (int64_t{1} << 31), name, ": the input is too large for one launch");
  // Blocks that share more than this need to be allowed to.
  if (shared_bytes > 48 * 1024) {
    const cudaError_t allowed =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    STD_TORCH_CHECK(allowed == cudaSuccess, name, ": ", cudaGetErrorString(allowed));
  }
  kernel<<<static_cast<unsigned int>(blocks), threads, shared_bytes, stream>>>(arguments...);
  const cudaError_t launched = cudaGetLastError();
  STD_TORCH_CHECK(launched == cudaSuccess, name, ": ", cudaGetErrorString(launched));
}

#endif  // !defined(CORA_ON_HOST)

// 2^x with a relative error of 2e-7 by the units that multiply and add; the polynomial of csrc/simd.h.
__device__ __forceinline__ float exp2_polynomial(float x) {
  x = fminf(fmaxf(x, -126.0f), 127.99f);
  const float rounded = x + 12582912.0f;
  const float fraction = x - (rounded - 12582912.0f);
  float power = 1.3264727275e-03f;
  power = fmaf(power, fraction, 9.6715128020e-03f);
  power = fmaf(power, fraction, 5.5507337445e-02f);
  power = fmaf(power, fraction, 2.4022242083e-01f);
  power = fmaf(power, fraction, 6.9314697760e-01f);
  power = fmaf(power, fraction, 1.0f);
  return __int_as_float(__float_as_int(power) + (__float_as_int(rounded) << 23));
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + exp2_special(-kLog2E * x)); }

__device__ __forceinline__ float softplus(float x) { return x > 20.0f ? x : log1pf(exp2_special(kLog2E * x)); }

}  // namespace cora
