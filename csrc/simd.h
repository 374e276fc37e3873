// Eight floats at a time and the functions of them that the scans need, in the vector extension of GCC and Clang: one
// source for every processor.
//
// It is included once for each instruction set, within a namespace CORA_SIMD of its own and under the compiler's
// target pragma, and so has no include guard. The includer brings <cstdint>, <cstring>, <immintrin.h> where there is
// one, and torch's half types.

namespace cora::CORA_SIMD {

using Float8 = float __attribute__((vector_size(32)));
using Bits8 = uint32_t __attribute__((vector_size(32)));
using Short8 = uint16_t __attribute__((vector_size(16)));

constexpr int64_t kLanes = 8;

inline Float8 splat(float value) { return value - Float8{}; }

inline Float8 load(const float* source) {
  Float8 values;
  std::memcpy(&values, source, sizeof(values));
  return values;
}

inline void store(float* target, Float8 values) { std::memcpy(target, &values, sizeof(values)); }

#if defined(__F16C__)
inline Float8 load(const torch::headeronly::Half* source) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
}

inline void store(torch::headeronly::Half* target, Float8 values) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(target), _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
}
#endif

inline Float8 load(const torch::headeronly::BFloat16* source) {
  Short8 bits;
  std::memcpy(&bits, source, sizeof(bits));
  return reinterpret_cast<Float8>(__builtin_convertvector(bits, Bits8) << 16);
}

// To the nearest, ties to even; NaN keeps a bit of its payload.
inline void store(torch::headeronly::BFloat16* target, Float8 values) {
  const Bits8 bits = reinterpret_cast<Bits8>(values);
  const Bits8 rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Short8 halves = __builtin_convertvector(values == values ? rounded : (bits >> 16) | 0x40, Short8);
  std::memcpy(target, &halves, sizeof(halves));
}

// Any other type, one value after the other.
template <typename T>
inline Float8 load(const T* source) {
  Float8 values;
  for (int lane = 0; lane < kLanes; ++lane) values[lane] = static_cast<float>(source[lane]);
  return values;
}

template <typename T>
inline void store(T* target, Float8 values) {
  for (int lane = 0; lane < kLanes; ++lane) target[lane] = static_cast<T>(values[lane]);
}

// The first `count` of eight values; the others are 0, and their memory is not touched.
template <typename T>
inline Float8 load(const T* source, int64_t count) {
  if (count >= kLanes) return load(source);
  Float8 values{};
  for (int64_t lane = 0; lane < count; ++lane) values[lane] = static_cast<float>(source[lane]);
  return values;
}

template <typename T>
inline void store(T* target, Float8 values, int64_t count) {
  if (count >= kLanes) {
    store(target, values);
    return;
  }
  for (int64_t lane = 0; lane < count; ++lane) target[lane] = static_cast<T>(values[lane]);
}

inline float sum(Float8 values) {
  float total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += values[lane];
  return total;
}

// The larger or smaller one of a bound and each value; NaN stays NaN. The compiler does not find the instruction.
inline Float8 at_least(float bound, Float8 x) {
#if defined(__AVX__)
  return _mm256_max_ps(splat(bound), x);
#else
  return splat(bound) > x ? splat(bound) : x;
#endif
}

inline Float8 at_most(float bound, Float8 x) {
#if defined(__AVX__)
  return _mm256_min_ps(splat(bound), x);
#else
  return splat(bound) < x ? splat(bound) : x;
#endif
}

// 2^x with a relative error below 2e-7; x is held to [-126, 127.99], and NaN stays NaN.
//
// x = whole + fraction with |fraction| <= 1/2; 2^fraction is the polynomial of degree 5 that is 1 at 0 and has the
// least relative error (9.2e-8), and the whole part is added to its exponent. Its being exact at 0 matters: slow states
// are multiplied by nearly 1 at every position.
inline Float8 exp2(Float8 x) {
  x = at_most(127.99f, at_least(-126.0f, x));
  // Adding 1.5 * 2^23 rounds to a whole number, which then stands in the lowest bits.
  const Float8 magic = splat(12582912.0f);
  const Float8 rounded = x + magic;
  const Float8 fraction = x - (rounded - magic);
  Float8 power = splat(1.3264727275e-03f);
  power = power * fraction + 9.6715128020e-03f;
  power = power * fraction + 5.5507337445e-02f;
  power = power * fraction + 2.4022242083e-01f;
  power = power * fraction + 6.9314697760e-01f;
  power = power * fraction + 1.0f;
  return reinterpret_cast<Float8>(reinterpret_cast<Bits8>(power) + (reinterpret_cast<Bits8>(rounded) << 23));
}

constexpr float kLog2E = 1.44269504f;

// 1 / (1 + e^-x).
inline Float8 sigmoid(Float8 x) { return 1.0f / (1.0f + exp2(x * -kLog2E)); }

// x times that.
inline Float8 silu(Float8 x) { return x / (1.0f + exp2(x * -kLog2E)); }

// log(1 + e^x) = max(x, 0) + log(1 + e^-|x|), and log(1 + e) = 2 artanh(s) with s = e / (2 + e) <= 1/3: a series.
inline Float8 softplus(Float8 x) {
  const Float8 power = exp2((x < 0.0f ? x : -x) * kLog2E);
  const Float8 ratio = power / (2.0f + power);
  const Float8 square = ratio * ratio;
  Float8 series = splat(1.0f / 15);
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
