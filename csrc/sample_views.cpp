// cora::sample_views on the CPU; its meaning is `sample_views` in cora/ops/reference/erp_to_views.py.
#include "sample_views.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define CORA_X86 1
#endif

namespace cora {
namespace {

constexpr int64_t kPixelsPerTask = 2048;

// Computes pixels [begin, end) of a view; `out` is the view's first plane.
using Span = void (*)(const SampleViews&, int32_t shift, float* out, int64_t begin, int64_t end);

void sample_span(const SampleViews& call, int32_t shift, float* out, int64_t begin, int64_t end) {
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    const int64_t first = pixel * call.samples;
    sample_pixel(
        call.panorama, call.taps + first, call.weights + 2 * first, call.samples, shift, call.normalisation,
        call.pixels, out + pixel);
  }
}

#if defined(CORA_X86)

constexpr int kLanes = 8;

// The two texels at `texel` and those below them, blended: [r, g, b, -] of one bilinear sample.
__attribute__((target("avx2,fma"))) inline __m128 bilinear(const uint8_t* texel, int64_t stride, const float* weights) {
  const __m128i upper_bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(texel));
  const __m128i lower_bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(texel + stride));
  const __m256 upper = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(upper_bytes));
  const __m256 lower = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(lower_bytes));
  const __m256 column = _mm256_fmadd_ps(_mm256_broadcast_ss(weights + 1), _mm256_sub_ps(lower, upper), upper);
  const __m256i right_texel = _mm256_setr_epi32(3, 4, 5, 5, 0, 0, 0, 0);
  const __m128 left = _mm256_castps256_ps128(column);
  const __m128 right = _mm256_castps256_ps128(_mm256_permutevar8x32_ps(column, right_texel));
  return _mm_fmadd_ps(_mm_broadcast_ss(weights), _mm_sub_ps(right, left), left);
}

// Four pixels [r, g, b, -] to three planes, normalised.
__attribute__((target("avx2,fma"))) inline void store_four(
    const __m128* pixels, const Normalisation& normalisation, int64_t plane, float* out) {
  __m128 channels[4] = {pixels[0], pixels[1], pixels[2], pixels[3]};
  _MM_TRANSPOSE4_PS(channels[0], channels[1], channels[2], channels[3]);
  for (int channel = 0; channel < kChannels; ++channel) {
    const __m128 value = _mm_fmadd_ps(
        channels[channel], _mm_set1_ps(normalisation.scale[channel]), _mm_set1_ps(normalisation.offset[channel]));
    _mm_storeu_ps(out + channel * plane, value);
  }
}

// The same for eight taps at a time. Groups with a tap at the seam or next to a pole go the plain way: they are few.
template <int kSamples>
__attribute__((target("avx2,fma"))) void sample_span_avx2(
    const SampleViews& call, int32_t shift, float* out, int64_t begin, int64_t end) {
  constexpr int kPixels = kSamples == 4 ? 4 : 8;
  constexpr int kGroups = kPixels * kSamples / kLanes;
  static_assert(kGroups * kLanes == kPixels * kSamples, "whole groups of taps");
  const int32_t width = call.panorama.width;
  const int64_t stride = static_cast<int64_t>(width) * kChannels;
  const __m256i widths = _mm256_set1_epi32(width);
  const __m256i last_column = _mm256_set1_epi32(width - 1);
  // Reading eight bytes at a texel must not pass the end of the panorama: the last pair of rows counts as a pole.
  const __m256i last_row = _mm256_set1_epi32(call.panorama.height - 2);
  Normalisation mean = call.normalisation;
  for (float& scale : mean.scale) scale /= kSamples;
  int64_t pixel = begin;
  for (; pixel + kPixels <= end; pixel += kPixels) {
    const int64_t first = pixel * kSamples;
    alignas(32) int32_t texels[kPixels * kSamples];
    __m256i special = _mm256_setzero_si256();
    for (int group = 0; group < kGroups; ++group) {
      const __m256i tap = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(call.taps + first + group * kLanes));
      __m256i column = _mm256_add_epi32(_mm256_and_si256(tap, _mm256_set1_epi32(0xffff)), _mm256_set1_epi32(shift));
      const __m256i wraps = _mm256_cmpgt_epi32(column, last_column);
      column = _mm256_sub_epi32(column, _mm256_and_si256(wraps, widths));
      const __m256i row = _mm256_sub_epi32(_mm256_srli_epi32(tap, 16), _mm256_set1_epi32(1));
      special = _mm256_or_si256(special, _mm256_cmpeq_epi32(column, last_column));
      special = _mm256_or_si256(special, _mm256_cmpgt_epi32(_mm256_setzero_si256(), row));
      special = _mm256_or_si256(special, _mm256_cmpgt_epi32(row, _mm256_sub_epi32(last_row, _mm256_set1_epi32(1))));
      const __m256i texel = _mm256_add_epi32(_mm256_mullo_epi32(row, widths), column);
      _mm256_store_si256(reinterpret_cast<__m256i*>(texels + group * kLanes), texel);
    }
    if (!_mm256_testz_si256(special, special)) {
      sample_span(call, shift, out, pixel, pixel + kPixels);
      continue;
    }
    const float* weights = call.weights + 2 * first;
    __m128 sums[kPixels];
    for (int number = 0; number < kPixels; ++number) {
      sums[number] = _mm_setzero_ps();
      for (int sample = 0; sample < kSamples; ++sample) {
        const int tap = number * kSamples + sample;
        const uint8_t* texel = call.panorama.texels + static_cast<int64_t>(texels[tap]) * kChannels;
        sums[number] = _mm_add_ps(sums[number], bilinear(texel, stride, weights + 2 * tap));
      }
    }
    for (int four = 0; four < kPixels; four += 4) store_four(sums + four, mean, call.pixels, out + pixel + four);
  }
  sample_span(call, shift, out, pixel, end);
}

bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

#endif

Span choose_span(int64_t samples) {
#if defined(CORA_X86)
  if (has_avx2() && samples == 1) return sample_span_avx2<1>;
  if (has_avx2() && samples == 4) return sample_span_avx2<4>;
  if (has_avx2() && samples == 9) return sample_span_avx2<9>;
#endif
  return sample_span;
}

void sample_views_cpu(
    const Tensor& panorama, const Tensor& taps, const Tensor& weights, std::vector<int64_t> shifts,
    std::vector<double> scale, std::vector<double> offset, const Tensor& out) {
  const SampleViews call = check_sample_views(panorama, taps, weights, shifts, scale, offset, out);
  const Span span = choose_span(call.samples);
  const int64_t tasks = (call.pixels + kPixelsPerTask - 1) / kPixelsPerTask;
  torch::stable::parallel_for(0, call.views * tasks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t view = task / tasks;
      const int64_t first = (task % tasks) * kPixelsPerTask;
      const int64_t last = first + kPixelsPerTask < call.pixels ? first + kPixelsPerTask : call.pixels;
      span(call, static_cast<int32_t>(shifts[view]), call.out + view * kChannels * call.pixels, first, last);
    }
  });
}

}  // namespace
}  // namespace cora

STABLE_TORCH_LIBRARY_IMPL(cora, CPU, library) { library.impl("sample_views", TORCH_BOX(&cora::sample_views_cpu)); }
