// Which instructions the kernels may use: the processor's, or fewer where ATEN_CPU_CAPABILITY says so, as it does to
// torch's own kernels ("default", "avx2" or "avx512").
#pragma once

#include <cstdlib>
#include <string_view>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(CORA_PORTABLE)
#define CORA_X86 1
#endif

namespace cora {

enum class InstructionSet { kPortable, kAvx2, kAvx512 };

inline InstructionSet find_instruction_set() {
#if defined(CORA_X86)
  const char* setting = std::getenv("ATEN_CPU_CAPABILITY");
  const std::string_view limit = setting == nullptr ? "" : setting;
  const bool has_avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (limit == "default" || !has_avx2) return InstructionSet::kPortable;
  return limit == "avx2" || !has_avx512 ? InstructionSet::kAvx2 : InstructionSet::kAvx512;
#else
  return InstructionSet::kPortable;
#endif
}

// Read once, as torch does.
inline InstructionSet instruction_set() {
  static const InstructionSet found = find_instruction_set();
  return found;
}

}  // namespace cora
