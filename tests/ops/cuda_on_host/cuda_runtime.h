// Runs CUDA kernels on the CPU, to test them without a GPU: what they use of CUDA, and a launch that takes the threads
// of a block in turns.
//
// Each thread of a block is a fibre. It runs until it waits for others - at __syncthreads() or at a shuffle - and then
// the next one runs; when all have come to the same kind of point, all go on. Memory is shared with poison in it.
// Threads of a block must all wait the same number of times, shuffles included: where they do not, the program ends.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

#define CORA_ON_HOST 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

// The operations become those of the CPU.
#undef STABLE_TORCH_LIBRARY_IMPL
#define STABLE_TORCH_LIBRARY_IMPL(name, key, library) _STABLE_TORCH_LIBRARY_IMPL(name, CPU, library, C10_UID)

using cudaStream_t = void*;

struct dim3 {
  unsigned int x, y, z;
  dim3(unsigned int x = 1, unsigned int y = 1, unsigned int z = 1) : x(x), y(y), z(z) {}
};

namespace cora {

struct Fibre {
  ucontext_t context;
  std::vector<char> stack;
  dim3 place;
  const char* waits_at = nullptr;  // null when it has ended
};

struct Machine {
  dim3 thread{0, 0, 0}, block{0, 0, 0};
  std::vector<float> shared, given;
  std::vector<Fibre> fibres;
  ucontext_t scheduler;
  size_t running = 0;
  void (*body)(void*) = nullptr;
  void* arguments = nullptr;
};

inline Machine machine;

inline void wait_at(const char* point) {
  Fibre& own = machine.fibres[machine.running];
  own.waits_at = point;
  swapcontext(&own.context, &machine.scheduler);
}

inline void run_fibre() {
  machine.body(machine.arguments);
  machine.fibres[machine.running].waits_at = nullptr;
  swapcontext(&machine.fibres[machine.running].context, &machine.scheduler);
}

inline void run_block() {
  for (Fibre& fibre : machine.fibres) {
    getcontext(&fibre.context);
    fibre.stack.resize(1 << 17);
    fibre.context.uc_stack.ss_sp = fibre.stack.data();
    fibre.context.uc_stack.ss_size = fibre.stack.size();
    makecontext(&fibre.context, run_fibre, 0);
  }
  for (;;) {
    for (machine.running = 0; machine.running < machine.fibres.size(); ++machine.running) {
      machine.thread = machine.fibres[machine.running].place;
      swapcontext(&machine.scheduler, &machine.fibres[machine.running].context);
    }
    const char* point = machine.fibres[0].waits_at;
    for (const Fibre& fibre : machine.fibres) {
      if (fibre.waits_at == point) continue;
      std::fprintf(stderr, "threads of a block wait at different points\n");
      std::abort();
    }
    if (point == nullptr) return;
  }
}

struct Launcher {
  cudaStream_t stream = nullptr;
  explicit Launcher(const torch::stable::Tensor&) {}
};

inline float* shared_memory() { return machine.shared.data(); }

// Less than any GPU has: tiles that do not fit are tested too.
inline int64_t largest_shared_memory() { return 48 * 1024; }

inline float exp2_special(float x) { return x < -126.0f ? 0.0f : std::exp2(x); }

template <typename... Parameters, typename... Arguments>
void launch(
    const char*, void (*kernel)(Parameters...), int64_t blocks, dim3 threads, size_t shared_bytes, cudaStream_t,
    Arguments... arguments) {
  auto call = [&] { kernel(arguments...); };
  machine.body = [](void* given) { (*static_cast<decltype(call)*>(given))(); };
  machine.arguments = &call;
  machine.fibres.resize(threads.x * threads.y);
  machine.given.resize(machine.fibres.size());
  for (unsigned int each = 0; each < machine.fibres.size(); ++each) {
    machine.fibres[each].place = dim3(each % threads.x, each / threads.x, 0);
  }
  for (int64_t block = 0; block < blocks; ++block) {
    machine.block = dim3(static_cast<unsigned int>(block), 0, 0);
    machine.shared.assign(shared_bytes / sizeof(float), std::numeric_limits<float>::quiet_NaN());
    run_block();
  }
}

}  // namespace cora

#define threadIdx (::cora::machine.thread)
#define blockIdx (::cora::machine.block)

inline void __syncthreads() { cora::wait_at("__syncthreads"); }

inline float __shfl_xor_sync(unsigned int, float value, int mask) {
  const size_t own = cora::machine.running;
  cora::machine.given[own] = value;
  cora::wait_at("shuffle");
  const float taken = cora::machine.given[own ^ static_cast<size_t>(mask)];
  cora::wait_at("after shuffle");
  return taken;
}

inline int __float_as_int(float value) {
  int bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

inline float __int_as_float(int bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
