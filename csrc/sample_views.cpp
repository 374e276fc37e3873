// cora::sample_views on the CPU; its meaning is `sample_views` in cora/ops/reference/erp_to_views.py.
#include "sample_views.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>

#if defined(__x86_64__) && !defined(CORA_PORTABLE)
#include <immintrin.h>
#define CORA_X86 1
#endif

namespace cora {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

constexpr int64_t kPixelsPerTask = 2048;

// Computes pixels [begin, end) of a view; `out` is the view's first channel.
template <typename T>
using Span = void (*)(const SampleViews&, const Panorama&, int32_t shift, T* out, int64_t begin, int64_t end);

template <typename T>
void sample_span(const SampleViews& call, const Panorama& panorama, int32_t shift, T* out, int64_t begin, int64_t end) {
  for (int64_t pixel = begin; pixel < end; ++pixel) {
    int32_t sum[kChannels] = {0, 0, 0};
    for (int64_t tap = pixel * call.samples; tap < (pixel + 1) * call.samples; ++tap) {
      add_sample(panorama, call.taps[tap], call.weights + 4 * tap, shift, sum);
    }
    for (int channel = 0; channel < kChannels; ++channel) {
      const float value = static_cast<float>(sum[channel]) * call.normalisation.scale[channel];
      out[channel * call.channel_stride + pixel] = static_cast<T>(value + call.normalisation.offset[channel]);
    }
  }
}

#if defined(CORA_X86)

#define CORA_AVX2 __attribute__((target("avx2,fma,f16c")))

constexpr int kLanes = 8;
constexpr int64_t kTapsAhead = 256;
// A panorama of this size and more is not in the cache when its rows come round again.
constexpr int64_t kCacheBytes = 4 << 20;

CORA_AVX2 inline void store(float* out, __m256 values) { _mm256_storeu_ps(out, values); }

CORA_AVX2 inline void store(Half* out, __m256 values) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
}

CORA_AVX2 inline void store(BFloat16* out, __m256 values) {
  const __m256i bits = _mm256_castps_si256(values);
  const __m256i is_odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounding = _mm256_add_epi32(is_odd, _mm256_set1_epi32(0x7fff));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, rounding), 16);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_castsi256_si128(packed));
}

// The weighted sum of the two texels at `texel` and those below: [r r g g b b 0 0], to be added in pairs.
CORA_AVX2 inline __m256i bilinear(const uint8_t* texel, int64_t stride, const int16_t* weights) {
  const __m128d upper = _mm_castsi128_pd(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(texel)));
  const __m128i both = _mm_castpd_si128(_mm_loadh_pd(upper, reinterpret_cast<const double*>(texel + stride)));
  const __m128i order = _mm_setr_epi8(0, 3, 8, 11, 1, 4, 9, 12, 2, 5, 10, 13, -1, -1, -1, -1);
  const __m256i texels = _mm256_cvtepu8_epi16(_mm_shuffle_epi8(both, order));
  const __m256i factors = _mm256_castpd_si256(_mm256_broadcast_sd(reinterpret_cast<const double*>(weights)));
  return _mm256_madd_epi16(texels, factors);
}

// Sums of eight pixels as `bilinear` gives them, to eight values of each channel.
CORA_AVX2 inline void to_channels(const __m256i* sums, __m256i* channels) {
  __m256 halves[4];
  for (int pair = 0; pair < 4; ++pair) {
    halves[pair] = _mm256_castsi256_ps(_mm256_hadd_epi32(sums[2 * pair], sums[2 * pair + 1]));
  }
  const __m256 red_blue_low = _mm256_shuffle_ps(halves[0], halves[1], 0x88);
  const __m256 red_blue_high = _mm256_shuffle_ps(halves[2], halves[3], 0x88);
  const __m256 green_low = _mm256_shuffle_ps(halves[0], halves[1], 0xdd);
  const __m256 green_high = _mm256_shuffle_ps(halves[2], halves[3], 0xdd);
  channels[0] = _mm256_castps_si256(_mm256_permute2f128_ps(red_blue_low, red_blue_high, 0x20));
  channels[1] = _mm256_castps_si256(_mm256_permute2f128_ps(green_low, green_high, 0x20));
  channels[2] = _mm256_castps_si256(_mm256_permute2f128_ps(red_blue_low, red_blue_high, 0x31));
}

// Writes the texel of each of `count` (a multiple of 8) taps; returns whether one is at the seam or next to a pole.
CORA_AVX2 inline bool locate(
    const Panorama& panorama, const int32_t* taps, int64_t count, int32_t shift, bool prefetches, int step,
    int32_t* texels) {
  const int64_t stride = static_cast<int64_t>(panorama.width) * kChannels;
  const __m256i widths = _mm256_set1_epi32(panorama.width);
  const __m256i last_column = _mm256_set1_epi32(panorama.width - 1);
  // Reading eight bytes at a texel must not pass the end of the panorama: the last pair of rows counts as a pole.
  const __m256i last_row = _mm256_set1_epi32(panorama.height - 3);
  __m256i special = _mm256_setzero_si256();
  for (int64_t group = 0; group < count; group += kLanes) {
    const __m256i tap = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(taps + group));
    __m256i column = _mm256_add_epi32(_mm256_and_si256(tap, _mm256_set1_epi32(0xffff)), _mm256_set1_epi32(shift));
    const __m256i wraps = _mm256_cmpgt_epi32(column, last_column);
    column = _mm256_sub_epi32(column, _mm256_and_si256(wraps, widths));
    const __m256i row = _mm256_sub_epi32(_mm256_srli_epi32(tap, 16), _mm256_set1_epi32(1));
    special = _mm256_or_si256(special, _mm256_cmpeq_epi32(column, last_column));
    special = _mm256_or_si256(special, _mm256_cmpgt_epi32(_mm256_setzero_si256(), row));
    special = _mm256_or_si256(special, _mm256_cmpgt_epi32(row, last_row));
    const __m256i texel = _mm256_add_epi32(_mm256_mullo_epi32(row, widths), column);
    _mm256_store_si256(reinterpret_cast<__m256i*>(texels + group), texel);
    if (prefetches) {
      for (int lane = 0; lane < kLanes; lane += step) {
        const uint8_t* address = panorama.texels + static_cast<int64_t>(texels[group + lane]) * kChannels;
        _mm_prefetch(reinterpret_cast<const char*>(address), _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(address + stride), _MM_HINT_T0);
      }
    }
  }
  return !_mm256_testz_si256(special, special);
}

// The same for eight pixels at a time. Eight with a tap at the seam or next to a pole go the plain way: they are few.
// kSamples is the number of samples where it is known, so that the loops unroll, and otherwise 0.
template <typename T, int kSamples>
CORA_AVX2 void sample_span_avx2(
    const SampleViews& call, const Panorama& panorama, int32_t shift, T* out, int64_t begin, int64_t end) {
  const int64_t samples = kSamples ? kSamples : call.samples;
  const int64_t stride = static_cast<int64_t>(panorama.width) * kChannels;
  __m256 scale[kChannels], offset[kChannels];
  for (int channel = 0; channel < kChannels; ++channel) {
    scale[channel] = _mm256_set1_ps(call.normalisation.scale[channel]);
    offset[channel] = _mm256_set1_ps(call.normalisation.offset[channel]);
  }
  // Taps are located some way ahead of their use, so that what they read of a large panorama is on its way by then.
  // The samples of a pixel share their cache lines, more or less.
  constexpr int kPrefetchStep = kSamples == 4 ? 4 : 1;
  const bool prefetches = stride * panorama.height > kCacheBytes;
  const int64_t group_taps = kLanes * samples;
  const int64_t block = std::max<int64_t>(1, kTapsAhead / group_taps) * kLanes;
  alignas(32) int32_t texels[kSamples ? std::max<int64_t>(kTapsAhead, kLanes * kSamples) : kLanes * kMostSamples];
  bool is_special[kTapsAhead / kLanes] = {};
  int64_t pixel = begin;
  for (; pixel + kLanes <= end; pixel += kLanes) {
    const int64_t first = pixel * samples;
    const int64_t position = (pixel - begin) % block;
    if (position == 0) {
      const int64_t groups = std::min(block, end - pixel) / kLanes;
      for (int64_t group = 0; group < groups; ++group) {
        const int64_t start = group * group_taps;
        is_special[group] =
            locate(panorama, call.taps + first + start, group_taps, shift, prefetches, kPrefetchStep, texels + start);
      }
    }
    if (is_special[position / kLanes]) {
      sample_span(call, panorama, shift, out, pixel, pixel + kLanes);
      continue;
    }
    const int16_t* weights = call.weights + 4 * first;
    const int32_t* located = texels + position * samples;
    __m256i sums[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      sums[lane] = _mm256_setzero_si256();
      for (int64_t sample = 0; sample < samples; ++sample) {
        const int64_t tap = lane * samples + sample;
        const uint8_t* texel = panorama.texels + static_cast<int64_t>(located[tap]) * kChannels;
        sums[lane] = _mm256_add_epi32(sums[lane], bilinear(texel, stride, weights + 4 * tap));
      }
    }
    __m256i channels[kChannels];
    to_channels(sums, channels);
    for (int channel = 0; channel < kChannels; ++channel) {
      const __m256 value = _mm256_fmadd_ps(_mm256_cvtepi32_ps(channels[channel]), scale[channel], offset[channel]);
      store(out + channel * call.channel_stride + pixel, value);
    }
  }
  sample_span(call, panorama, shift, out, pixel, end);
}

#endif

template <typename T>
Span<T> choose_span(int64_t samples) {
#if defined(CORA_X86)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    if (samples == 1) return sample_span_avx2<T, 1>;
    if (samples == 4) return sample_span_avx2<T, 4>;
    if (samples == 9) return sample_span_avx2<T, 9>;
    return sample_span_avx2<T, 0>;
  }
#endif
  return sample_span<T>;
}

template <typename T>
void sample_all(const SampleViews& call, const std::vector<int64_t>& shifts) {
  const Span<T> span = choose_span<T>(call.samples);
  const int64_t chunks = (call.pixels + kPixelsPerTask - 1) / kPixelsPerTask;
  const int64_t texels = static_cast<int64_t>(call.panorama.height) * call.panorama.width * kChannels;
  // The views take turns with a chunk of the plan, which stays in the cache.
  torch::stable::parallel_for(0, call.batch * chunks * call.views, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t view = task % call.views;
      const int64_t chunk = task / call.views % chunks;
      const int64_t image = task / call.views / chunks;
      Panorama panorama = call.panorama;
      panorama.texels += image * texels;
      T* out = static_cast<T*>(call.out) + image * call.batch_stride + view * call.view_stride;
      const int64_t first = chunk * kPixelsPerTask;
      const int64_t last = std::min(first + kPixelsPerTask, call.pixels);
      span(call, panorama, static_cast<int32_t>(shifts[view]), out, first, last);
    }
  });
}

void sample_views_cpu(
    const Tensor& panoramas, const Tensor& taps, const Tensor& weights, std::vector<int64_t> shifts,
    std::vector<double> scale, std::vector<double> offset, const Tensor& out) {
  const SampleViews call = check_sample_views(panoramas, taps, weights, shifts, scale, offset, out);
  if (call.views == 0) return;
  if (out.scalar_type() == ScalarType::Float) {
    sample_all<float>(call, shifts);
  } else if (out.scalar_type() == ScalarType::Half) {
    sample_all<Half>(call, shifts);
  } else {
    sample_all<BFloat16>(call, shifts);
  }
}

}  // namespace
}  // namespace cora

STABLE_TORCH_LIBRARY_IMPL(cora, CPU, library) { library.impl("sample_views", TORCH_BOX(&cora::sample_views_cpu)); }
