// Includes the file CORA_KERNELS twice: in the namespace cora::portable, and, where the compiler can, in cora::avx2
// with those instructions switched on. The includer asks has_avx2() which one to call. It has no include guard.
//
// Built with CORA_PORTABLE defined, there is only the former: so it is tested on processors that have the latter.
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(CORA_PORTABLE)
#define CORA_X86 1
#include <immintrin.h>
#endif

#define CORA_SIMD portable
#include CORA_KERNELS
#undef CORA_SIMD

#if defined(CORA_X86)
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#define CORA_SIMD avx2
#include CORA_KERNELS
#undef CORA_SIMD
#pragma GCC pop_options
#endif

namespace cora {

inline bool has_avx2() {
#if defined(CORA_X86)
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
  return false;
#endif
}

// The fastest one of `portable::function` and `avx2::function`.
#if defined(CORA_X86)
#define CORA_FASTEST(...) (has_avx2() ? avx2::__VA_ARGS__ : portable::__VA_ARGS__)
#else
#define CORA_FASTEST(...) (portable::__VA_ARGS__)
#endif

}  // namespace cora
