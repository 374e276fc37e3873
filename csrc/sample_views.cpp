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

// Eight bytes at each of two places, in the two halves of a vector.
CORA_AVX2 inline __m256i load_pair(const void* low, const void* high) {
  const __m256d both = _mm256_blend_pd(
      _mm256_broadcast_sd(static_cast<const double*>(low)), _mm256_broadcast_sd(static_cast<const double*>(high)), 0xc);
  return _mm256_castpd_si256(both);
}

// The weighted sums of the texels of two samples, each with its right neighbour: [r g b 0 | r g b 0].
CORA_AVX2 inline __m256i bilinear_pair(__m256i upper, __m256i lower, __m256i weights) {
  const __m256i order = _mm256_setr_epi8(
      0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1,  //
      0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1);
  const __m256i upper_weights = _mm256_shuffle_epi32(weights, 0x00);
  const __m256i lower_weights = _mm256_shuffle_epi32(weights, 0x55);
  return _mm256_add_epi32(
      _mm256_madd_epi16(_mm256_shuffle_epi8(upper, order), upper_weights),
      _mm256_madd_epi16(_mm256_shuffle_epi8(lower, order), lower_weights));
}

// Sums of eight pixels, those of pixels i and i + 4 together as `bilinear_pair` gives them, to eight of each channel.
CORA_AVX2 inline void to_channels(const __m256i* sums, __m256i* channels) {
  const __m256i red_green_low = _mm256_unpacklo_epi32(sums[0], sums[1]);
  const __m256i red_green_high = _mm256_unpacklo_epi32(sums[2], sums[3]);
  const __m256i blue_low = _mm256_unpackhi_epi32(sums[0], sums[1]);
  const __m256i blue_high = _mm256_unpackhi_epi32(sums[2], sums[3]);
  channels[0] = _mm256_unpacklo_epi64(red_green_low, red_green_high);
  channels[1] = _mm256_unpackhi_epi64(red_green_low, red_green_high);
  channels[2] = _mm256_unpacklo_epi64(blue_low, blue_high);
}

// Where the texel of a tap and the one below it are, given the bytes before the texel.
struct Texels {
  const uint8_t* upper;
  const uint8_t* lower;
};

// Writes the bytes before the texel of each of eight taps. Returns a bit for each that is at the seam or next to a
// pole: for those it writes 0.
CORA_AVX2 inline int locate(const Panorama& panorama, const int32_t* taps, int32_t shift, uint32_t* offsets) {
  const __m256i widths = _mm256_set1_epi32(panorama.width);
  const __m256i last_column = _mm256_set1_epi32(panorama.width - 1);
  // Reading eight bytes at a texel must not pass the end of the panorama: the last pair of rows counts as a pole.
  const __m256i last_row = _mm256_set1_epi32(panorama.height - 3);
  const __m256i tap = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(taps));
  __m256i column = _mm256_add_epi32(_mm256_and_si256(tap, _mm256_set1_epi32(0xffff)), _mm256_set1_epi32(shift));
  // As unsigned numbers: less than no columns are many.
  column = _mm256_min_epu32(column, _mm256_sub_epi32(column, widths));
  const __m256i row = _mm256_sub_epi32(_mm256_srli_epi32(tap, 16), _mm256_set1_epi32(1));
  const __m256i is_ordinary = _mm256_andnot_si256(
      _mm256_cmpeq_epi32(column, last_column), _mm256_cmpeq_epi32(_mm256_min_epu32(row, last_row), row));
  const __m256i texel = _mm256_add_epi32(_mm256_mullo_epi32(row, widths), column);
  const __m256i offset = _mm256_add_epi32(texel, _mm256_slli_epi32(texel, 1));
  _mm256_store_si256(reinterpret_cast<__m256i*>(offsets), _mm256_and_si256(offset, is_ordinary));
  return ~_mm256_movemask_ps(_mm256_castsi256_ps(is_ordinary)) & 0xff;
}

CORA_AVX2 inline void prefetch(const Texels& texels, const uint32_t* offsets, int64_t count, int step) {
  for (int64_t tap = 0; tap < count; tap += step) {
    _mm_prefetch(reinterpret_cast<const char*>(texels.upper + offsets[tap]), _MM_HINT_T0);
    _mm_prefetch(reinterpret_cast<const char*>(texels.lower + offsets[tap]), _MM_HINT_T0);
  }
}

// Sums the samples of eight pixels, to eight of each channel.
template <int kSamples>
CORA_AVX2 inline void sum_samples(
    const Texels& texels, const uint32_t* offsets, const int16_t* weights, int64_t any_samples, __m256i* channels) {
  const int64_t samples = kSamples ? kSamples : any_samples;
  constexpr int kPairs = kLanes / 2;
  __m256i sums[kPairs];
  for (int pair = 0; pair < kPairs; ++pair) {
    sums[pair] = _mm256_setzero_si256();
    for (int64_t sample = 0; sample < samples; ++sample) {
      const int64_t low = pair * samples + sample;
      const int64_t high = low + kPairs * samples;
      const __m256i upper = load_pair(texels.upper + offsets[low], texels.upper + offsets[high]);
      const __m256i lower = load_pair(texels.lower + offsets[low], texels.lower + offsets[high]);
      const __m256i sum = bilinear_pair(upper, lower, load_pair(weights + 4 * low, weights + 4 * high));
      sums[pair] = _mm256_add_epi32(sums[pair], sum);
    }
  }
  to_channels(sums, channels);
}

// The same for eight pixels at a time; those with a tap at the seam or next to a pole are done again the plain way.
// kSamples is the number of samples where it is known, so that the loops unroll, and otherwise 0.
template <typename T, int kSamples>
CORA_AVX2 void sample_span_avx2(
    const SampleViews& call, const Panorama& panorama, int32_t shift, T* out, int64_t begin, int64_t end) {
  const int64_t samples = kSamples ? kSamples : call.samples;
  const int64_t stride = static_cast<int64_t>(panorama.width) * kChannels;
  // The bytes before a texel are counted in 32 bits, and the last two rows never read.
  if (stride * panorama.height > UINT32_MAX || panorama.height < 3) {
    return sample_span(call, panorama, shift, out, begin, end);
  }
  const Texels texels{panorama.texels, panorama.texels + stride};
  __m256 scale[kChannels], offset[kChannels];
  T* planes[kChannels];
  for (int channel = 0; channel < kChannels; ++channel) {
    scale[channel] = _mm256_set1_ps(call.normalisation.scale[channel]);
    offset[channel] = _mm256_set1_ps(call.normalisation.offset[channel]);
    planes[channel] = out + channel * call.channel_stride;
  }
  // Taps are located some way ahead of their use, so that what they read of a large panorama is on its way by then.
  // The samples of a pixel share their cache lines, more or less.
  constexpr int kPrefetchStep = kSamples == 4 ? 4 : 1;
  constexpr int64_t kMostTaps = std::max<int64_t>(kTapsAhead, kLanes * (kSamples ? kSamples : kMostSamples));
  const bool prefetches = stride * panorama.height > kCacheBytes;
  const int64_t block = std::max<int64_t>(1, kTapsAhead / (kLanes * samples)) * kLanes;
  alignas(32) uint32_t offsets[kMostTaps];
  uint8_t is_special[kMostTaps / 8];
  const int64_t vectors_end = begin + (end - begin) / kLanes * kLanes;
  for (int64_t first = begin; first < vectors_end; first += block) {
    const int64_t last = std::min(first + block, vectors_end);
    const int64_t count = (last - first) * samples;
    for (int64_t tap = 0; tap < count; tap += 8) {
      is_special[tap / 8] = locate(panorama, call.taps + first * samples + tap, shift, offsets + tap);
    }
    if (prefetches) prefetch(texels, offsets, count, kPrefetchStep);
    for (int64_t pixel = first; pixel < last; pixel += kLanes) {
      const int64_t tap = (pixel - first) * samples;
      __m256i channels[kChannels];
      sum_samples<kSamples>(texels, offsets + tap, call.weights + 4 * pixel * samples, samples, channels);
      for (int channel = 0; channel < kChannels; ++channel) {
        const __m256 value = _mm256_fmadd_ps(_mm256_cvtepi32_ps(channels[channel]), scale[channel], offset[channel]);
        store(planes[channel] + pixel, value);
      }
    }
    int64_t redone = first;
    for (int64_t tap = 0; tap < count; tap += 8) {
      for (unsigned bits = is_special[tap / 8]; bits != 0; bits &= bits - 1) {
        const int64_t pixel = first + (tap + __builtin_ctz(bits)) / samples;
        if (pixel < redone) continue;
        sample_span(call, panorama, shift, out, pixel, pixel + 1);
        redone = pixel + 1;
      }
    }
  }
  sample_span(call, panorama, shift, out, vectors_end, end);
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
