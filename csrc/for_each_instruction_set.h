// Includes the file CORA_KERNELS three times: in the namespace cora::portable, and, where the compiler can, in
// cora::avx2 and in cora::avx512 with those instructions switched on. It has no include guard.
//
// CORA_LEVEL says which one it is: the compiler's own macros may not follow its target pragma. Built with CORA_PORTABLE
// defined, there is only the first.
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "instruction_set.h"

#if defined(CORA_X86)
#include <immintrin.h>
#endif

#define CORA_SIMD portable
#define CORA_LEVEL 0
#include CORA_KERNELS
#undef CORA_LEVEL
#undef CORA_SIMD

#if defined(CORA_X86)
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#define CORA_SIMD avx2
#define CORA_LEVEL 2
#include CORA_KERNELS
#undef CORA_LEVEL
#undef CORA_SIMD
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#define CORA_SIMD avx512
#define CORA_LEVEL 512
#include CORA_KERNELS
#undef CORA_LEVEL
#undef CORA_SIMD
#pragma GCC pop_options
#endif

// The fastest one of `portable::function`, `avx2::function` and `avx512::function` that may run here.
#if defined(CORA_X86)
#define CORA_FASTEST(...)                                             \
  (instruction_set() == InstructionSet::kAvx512 ? avx512::__VA_ARGS__ \
   : instruction_set() == InstructionSet::kAvx2 ? avx2::__VA_ARGS__   \
                                                : portable::__VA_ARGS__)
#else
#define CORA_FASTEST(...) (portable::__VA_ARGS__)
#endif
