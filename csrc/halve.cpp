// cora::halve on the CPU; its meaning is `halve` in cora/ops/reference/erp_to_views.py.
#include "halve.h"

#if defined(__x86_64__) && !defined(CORA_PORTABLE)
#include <immintrin.h>
#define CORA_X86 1
#endif

namespace cora {
namespace {

constexpr int64_t kChannels = 3;
constexpr int64_t kRowsPerTask = 16;

// One output row: rounded means of 2 x 2 texels, from output column `begin` on.
void halve_row(const uint8_t* upper, const uint8_t* lower, int64_t begin, int64_t columns, uint8_t* out) {
  for (int64_t column = begin; column < columns; ++column) {
    for (int64_t channel = 0; channel < kChannels; ++channel) {
      const int64_t left = 2 * column * kChannels + channel;
      const int sum = upper[left] + upper[left + kChannels] + lower[left] + lower[left + kChannels];
      out[column * kChannels + channel] = static_cast<uint8_t>((sum + 2) >> 2);
    }
  }
}

#if defined(CORA_X86)

// The processor's own prefetching ends with a page, and two rows of a large panorama soon leave one. It may pass the
// end of the panorama: a prefetch of what is not there does nothing.
constexpr int64_t kBytesAhead = 3072;

// Eight texels of two rows make four: neighbours are brought side by side, added in pairs, then over the rows.
__attribute__((target("avx2"))) int64_t
halve_row_avx2(const uint8_t* upper, const uint8_t* lower, int64_t columns, uint8_t* out) {
  const __m256i pairs = _mm256_setr_epi8(
      0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11, -1, -1, -1, -1, 0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11, -1, -1, -1, -1);
  const __m256i ones = _mm256_set1_epi8(1);
  const auto sums = [&](const uint8_t* texels) __attribute__((target("avx2"))) {
    const __m128i first = _mm_loadu_si128(reinterpret_cast<const __m128i*>(texels));
    const __m128i second = _mm_loadu_si128(reinterpret_cast<const __m128i*>(texels + 12));
    return _mm256_maddubs_epi16(_mm256_shuffle_epi8(_mm256_set_m128i(second, first), pairs), ones);
  };
  int64_t column = 0;
  // The loads reach four bytes past the eight texels and the stores two past the four.
  for (; column + 5 <= columns; column += 4) {
    const int64_t left = 2 * column * kChannels;
    _mm_prefetch(reinterpret_cast<const char*>(upper + left + kBytesAhead), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(lower + left + kBytesAhead), _MM_HINT_T0);
    __m256i sum = _mm256_add_epi16(sums(upper + left), sums(lower + left));
    sum = _mm256_srli_epi16(_mm256_add_epi16(sum, _mm256_set1_epi16(2)), 2);
    const __m256i bytes = _mm256_packus_epi16(sum, sum);
    const __m128i first = _mm256_castsi256_si128(bytes);
    const __m128i second = _mm256_extracti128_si256(bytes, 1);
    uint8_t* target = out + column * kChannels;
    _mm_storel_epi64(reinterpret_cast<__m128i*>(target), first);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(target + 6), second);
  }
  return column;
}

#endif

// Rows outside [first_row, last_row) of the result are left as they are: nothing is to read them.
Tensor halve_cpu(const Tensor& panoramas, int64_t first_row, int64_t last_row) {
  const Tensor halves = check_halve(panoramas, first_row, last_row);
  const int64_t rows = halves.size(1);
  const int64_t columns = halves.size(2);
  const int64_t wanted = last_row - first_row;
  const uint8_t* source = static_cast<const uint8_t*>(panoramas.const_data_ptr());
  uint8_t* target = static_cast<uint8_t*>(halves.mutable_data_ptr());
#if defined(CORA_X86)
  const bool has_avx2 = __builtin_cpu_supports("avx2");
#endif
  torch::stable::parallel_for(0, halves.size(0) * wanted, kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task / wanted * rows + first_row + task % wanted;
      const uint8_t* upper = source + 2 * row * 2 * columns * kChannels;
      const uint8_t* lower = upper + 2 * columns * kChannels;
      uint8_t* out = target + row * columns * kChannels;
      int64_t done = 0;
#if defined(CORA_X86)
      if (has_avx2) done = halve_row_avx2(upper, lower, columns, out);
#endif
      halve_row(upper, lower, done, columns, out);
    }
  });
  return halves;
}

}  // namespace
}  // namespace cora

STABLE_TORCH_LIBRARY_IMPL(cora, CPU, library) { library.impl("halve", TORCH_BOX(&cora::halve_cpu)); }
