// As many floats at a time as a vector holds, and the functions of them that the kernels need, in the vector extension
// of GCC and Clang: one source for every processor.
//
// It is included once for each instruction set, within a namespace CORA_SIMD of its own and under the compiler's
// target pragma, as CORA_LEVEL says, and so has no include guard. The includer brings <cstdint>, <cstring>,
// <immintrin.h> where there is one, and torch's half types.

namespace cora::CORA_SIMD {

#if CORA_LEVEL == 512
constexpr int64_t kLanes = 16;
// GCC 12 warns of its own intrinsics without a mask: they hand on a value that is not initialised.
constexpr __mmask16 kAllLanes = 0xffff;
#else
constexpr int64_t kLanes = 8;
#endif

constexpr int64_t kLine = 64;  // bytes of a line of the cache

using Floats = float __attribute__((vector_size(4 * kLanes)));
using Bits = uint32_t __attribute__((vector_size(4 * kLanes)));
using Shorts = uint16_t __attribute__((vector_size(2 * kLanes)));

inline Floats splat(float value) { return value - Floats{}; }

inline Floats load(const float* source) {
  Floats values;
  std::memcpy(&values, source, sizeof(values));
  return values;
}

inline void store(float* target, Floats values) { std::memcpy(target, &values, sizeof(values)); }

#if CORA_LEVEL == 512
inline Floats load(const torch::headeronly::Half* source) {
  return _mm512_maskz_cvtph_ps(kAllLanes, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
}

inline void store(torch::headeronly::Half* target, Floats values) {
  _mm256_storeu_si256(
      reinterpret_cast<__m256i*>(target), _mm512_maskz_cvtps_ph(kAllLanes, values, _MM_FROUND_TO_NEAREST_INT));
}
#elif CORA_LEVEL == 2
inline Floats load(const torch::headeronly::Half* source) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
}

inline void store(torch::headeronly::Half* target, Floats values) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(target), _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
}
#endif

inline Floats load(const torch::headeronly::BFloat16* source) {
  Shorts bits;
  std::memcpy(&bits, source, sizeof(bits));
  return reinterpret_cast<Floats>(__builtin_convertvector(bits, Bits) << 16);
}

// To the nearest, ties to even; NaN keeps a bit of its payload.
inline void store(torch::headeronly::BFloat16* target, Floats values) {
  const Bits bits = reinterpret_cast<Bits>(values);
  const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Shorts halves = __builtin_convertvector(values == values ? rounded : (bits >> 16) | 0x40, Shorts);
  std::memcpy(target, &halves, sizeof(halves));
}

// Any other type, one value after the other.
template <typename T>
inline Floats load(const T* source) {
  Floats values;
  for (int lane = 0; lane < kLanes; ++lane) values[lane] = static_cast<float>(source[lane]);
  return values;
}

template <typename T>
inline void store(T* target, Floats values) {
  for (int lane = 0; lane < kLanes; ++lane) target[lane] = static_cast<T>(values[lane]);
}

// The first `count` values of a vector; the others are 0, and their memory is not touched.
template <typename T>
inline Floats load(const T* source, int64_t count) {
  if (count >= kLanes) return load(source);
  Floats values{};
  for (int64_t lane = 0; lane < count; ++lane) values[lane] = static_cast<float>(source[lane]);
  return values;
}

template <typename T>
inline void store(T* target, Floats values, int64_t count) {
  if (count >= kLanes) {
    store(target, values);
    return;
  }
  for (int64_t lane = 0; lane < count; ++lane) target[lane] = static_cast<T>(values[lane]);
}

// Has memory fetched that is soon read, or written: the processor does not by itself fetch ahead what lies pages apart.
// Some do without it, others would wait for most of the time.
//
// Inlined always: GCC takes a call that does nothing but prefetch for one without effect, and removes it.
template <bool kToWrite = false>
[[gnu::always_inline]] inline void prefetch(const void* first, int64_t num_bytes) {
  for (int64_t byte = 0; byte < num_bytes; byte += kLine) {
    __builtin_prefetch(static_cast<const char*>(first) + byte, kToWrite, 2);
  }
}

inline float sum(Floats values) {
  float total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += values[lane];
  return total;
}

inline Floats absolute(Floats x) { return reinterpret_cast<Floats>(reinterpret_cast<Bits>(x) & 0x7fffffffu); }

// A product that is not fused with the additions after it: with two of them it would be computed twice. With longer
// vectors that is faster nevertheless.
inline Floats apart(Floats product) {
#if CORA_LEVEL == 2
  asm("" : "+v"(product));
#endif
  return product;
}

// Whether all values are below a bound; false where one is NaN.
inline bool all_below(float bound, Floats x) {
#if CORA_LEVEL == 512
  return _mm512_cmp_ps_mask(x, splat(bound), _CMP_LT_OQ) == kAllLanes;
#elif CORA_LEVEL == 2
  return _mm256_movemask_ps(_mm256_cmp_ps(x, splat(bound), _CMP_LT_OQ)) == 0xff;
#else
  bool all = true;
  for (int lane = 0; lane < kLanes; ++lane) all = all && x[lane] < bound;
  return all;
#endif
}

// Room for so many floats, from a whole cache line on: otherwise a vector may lie across two.
inline float* aligned(std::vector<float>& room, int64_t size) {
  room.resize(size + kLine / sizeof(float));
  return reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(room.data()) + kLine - 1) / kLine * kLine);
}

// The same, all 0.
inline float* zeroed(std::vector<float>& room, int64_t size) {
  float* first = aligned(room, size);
  std::memset(first, 0, sizeof(float) * size);
  return first;
}

// The larger or smaller one of a bound and each value; NaN stays NaN. The compiler does not find the instruction.
inline Floats at_least(float bound, Floats x) {
#if CORA_LEVEL == 512
  return _mm512_maskz_max_ps(kAllLanes, splat(bound), x);
#elif CORA_LEVEL == 2
  return _mm256_max_ps(splat(bound), x);
#else
  return splat(bound) > x ? splat(bound) : x;
#endif
}

inline Floats at_most(float bound, Floats x) {
#if CORA_LEVEL == 512
  return _mm512_maskz_min_ps(kAllLanes, splat(bound), x);
#elif CORA_LEVEL == 2
  return _mm256_min_ps(splat(bound), x);
#else
  return splat(bound) < x ? splat(bound) : x;
#endif
}

// 2^x with a relative error below 2e-7 for x in [-126, 127.99]; NaN stays NaN.
//
// x = whole + fraction with |fraction| <= 1/2; 2^fraction is the polynomial of degree 5 that is 1 at 0 and has the
// least relative error (9.2e-8), and the whole part is added to its exponent. Its being exact at 0 matters: slow states
// are multiplied by nearly 1 at every position.
inline Floats exp2_in_range(Floats x) {
  // Adding 1.5 * 2^23 rounds to a whole number, which then stands in the lowest bits.
  const Floats magic = splat(12582912.0f);
  const Floats rounded = x + magic;
  const Floats fraction = x - (rounded - magic);
  Floats power = splat(1.3264727275e-03f);
  power = power * fraction + 9.6715128020e-03f;
  power = power * fraction + 5.5507337445e-02f;
  power = power * fraction + 2.4022242083e-01f;
  power = power * fraction + 6.9314697760e-01f;
  power = power * fraction + 1.0f;
  return reinterpret_cast<Floats>(reinterpret_cast<Bits>(power) + (reinterpret_cast<Bits>(rounded) << 23));
}

// The same with x held to that range.
inline Floats exp2(Floats x) { return exp2_in_range(at_most(127.99f, at_least(-126.0f, x))); }

// `times_steps(y, x)` is y 2^(x / kSteps) for x / kSteps in [-126, 127.99], in fewer instructions where a vector can be
// a table: x counts its entries, what is left is at most half an entry, and a shorter polynomial does for it. The least
// significant bits of the rounded number choose the entry, and those above are added to its exponent, for which each
// entry makes up.
#if CORA_LEVEL == 512
constexpr float kSteps = 32;
constexpr int kStepBits = 5;
#elif CORA_LEVEL == 2
constexpr float kSteps = 8;
constexpr int kStepBits = 3;
#else
constexpr float kSteps = 1;
#endif

class PowersOfTwo {
 public:
#if CORA_LEVEL == 0
  Floats times_steps(Floats y, Floats x) const { return y * exp2_in_range(x); }
#else
  PowersOfTwo() {
    for (uint32_t each = 0; each < entries_; ++each) {
      const float power = std::exp2(static_cast<float>(each) / kSteps);
      uint32_t bits;
      std::memcpy(&bits, &power, sizeof(bits));
      table_[each / kLanes][each % kLanes] = bits - (each << (23 - kStepBits));
    }
  }

  // Relative errors of the polynomials: 2.7e-8 and 5.4e-8; both are 1 at 0. The table's entry meets y while the
  // polynomial is still on its way.
  Floats times_steps(Floats y, Floats x) const {
    const Floats magic = splat(12582912.0f);
    const Floats rounded = x + magic;
    const Floats fraction = x - (rounded - magic);
#if CORA_LEVEL == 512
    Floats power = splat(2.3459618387e-04f) * fraction + 2.1661166102e-02f;
    const Bits entry = reinterpret_cast<Bits>(_mm512_permutex2var_ps(
        reinterpret_cast<Floats>(table_[0]), reinterpret_cast<__m512i>(rounded), reinterpret_cast<Floats>(table_[1])));
#else
    Floats power = splat(1.0839106108e-04f) * fraction + 3.7540255580e-03f;
    power = power * fraction + 8.6643405259e-02f;
    const Bits entry = reinterpret_cast<Bits>(
        _mm256_permutevar8x32_ps(reinterpret_cast<Floats>(table_[0]), reinterpret_cast<__m256i>(rounded)));
#endif
    power = power * fraction + 1.0f;
    return power * (y * reinterpret_cast<Floats>(entry + (reinterpret_cast<Bits>(rounded) << (23 - kStepBits))));
  }

 private:
  static constexpr uint32_t entries_ = static_cast<uint32_t>(kSteps);
  Bits table_[entries_ / kLanes];
#endif
};

constexpr float kLog2E = 1.44269504f;

// 1 / (1 + e^-x).
inline Floats sigmoid(Floats x) { return 1.0f / (1.0f + exp2(x * -kLog2E)); }

// x times that.
inline Floats silu(Floats x) { return x / (1.0f + exp2(x * -kLog2E)); }

// log(1 + e^x) = max(x, 0) + log(1 + e^-|x|), and log(1 + e) = 2 artanh(s) with s = e / (2 + e) <= 1/3: a series.
inline Floats softplus(Floats x) {
  const Floats power = exp2((x < 0.0f ? x : -x) * kLog2E);
  const Floats ratio = power / (2.0f + power);
  const Floats square = ratio * ratio;
  Floats series = splat(1.0f / 15);
  series = series * square + 1.0f / 13;
  series = series * square + 1.0f / 11;
  series = series * square + 1.0f / 9;
  series = series * square + 1.0f / 7;
  series = series * square + 1.0f / 5;
  series = series * square + 1.0f / 3;
  series = series * square + 1.0f;
  return at_least(0.0f, x) + 2.0f * ratio * series;
}

}  // namespace cora::CORA_SIMD
