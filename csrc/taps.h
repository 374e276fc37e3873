// The plan of `cora::sample_views` and its arithmetic for one sample, shared by the CPU and the CUDA operation.
//
// A tap is where one bilinear sample reads: (row + 1) << 16 | column of its upper left texel, for a camera at yaw 0;
// row -1 lies beyond the north pole. Its weights are the fractions (right, down) in [0, 1).
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define CORA_HOST_DEVICE __host__ __device__
#else
#define CORA_HOST_DEVICE
#endif

namespace cora {

constexpr int kChannels = 3;

// A panorama uint8[height][width][3], row-major.
struct Panorama {
  const uint8_t* texels;
  int32_t height;
  int32_t width;
};

// What is done to the mean of a pixel's samples, per channel: value * scale + offset.
struct Normalisation {
  float scale[kChannels];
  float offset[kChannels];
};

// Adds the bilinear sample of a tap, moved to the right by `shift` columns in [0, width), to sum[3].
// Columns wrap; row -1 and row `height` are the mirrored rows, half a turn away.
CORA_HOST_DEVICE inline void add_sample(
    const Panorama& panorama, int32_t tap, float right, float down, int32_t shift, float* sum) {
  const int32_t width = panorama.width;
  const int32_t top = static_cast<int32_t>(static_cast<uint32_t>(tap) >> 16) - 1;
  const int32_t left = (tap & 0xffff) + shift;
  for (int32_t row_step = 0; row_step < 2; ++row_step) {
    int32_t row = top + row_step;
    int32_t column = left;
    if (row < 0 || row >= panorama.height) {
      row = row < 0 ? -1 - row : 2 * panorama.height - 1 - row;
      column += width / 2;
    }
    const float weight_y = row_step ? down : 1.0f - down;
    const uint8_t* line = panorama.texels + static_cast<int64_t>(row) * width * kChannels;
    for (int32_t column_step = 0; column_step < 2; ++column_step) {
      const uint8_t* texel = line + static_cast<int64_t>((column + column_step) % width) * kChannels;
      const float weight = weight_y * (column_step ? right : 1.0f - right);
      for (int channel = 0; channel < kChannels; ++channel) sum[channel] += weight * texel[channel];
    }
  }
}

// Writes one view pixel: the mean of its `samples` taps, normalised. `out` points to it in the plane of channel 0.
CORA_HOST_DEVICE inline void sample_pixel(
    const Panorama& panorama, const int32_t* taps, const float* weights, int64_t samples, int32_t shift,
    const Normalisation& normalisation, int64_t plane, float* out) {
  float sum[kChannels] = {0.0f, 0.0f, 0.0f};
  for (int64_t sample = 0; sample < samples; ++sample) {
    add_sample(panorama, taps[sample], weights[2 * sample], weights[2 * sample + 1], shift, sum);
  }
  for (int channel = 0; channel < kChannels; ++channel) {
    out[channel * plane] =
        sum[channel] / static_cast<float>(samples) * normalisation.scale[channel] + normalisation.offset[channel];
  }
}

}  // namespace cora
