// The plan of `cora::sample_views` and its arithmetic for one pixel, shared by the CPU and the CUDA operation.
//
// A tap is where one bilinear sample reads: (row + 1) << 16 | column of its upper left texel, for a camera at yaw 0;
// row -1 lies beyond the north pole. Its four weights, of that texel, the one to its right, the one below and the one
// to the right of that, are whole numbers with sum kOne.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define CORA_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define CORA_HOST_DEVICE inline
#endif

namespace cora {

constexpr int kChannels = 3;
constexpr int32_t kOne = 1 << 14;

// A panorama uint8[height][width][3], row-major.
struct Panorama {
  const uint8_t* texels;
  int32_t height;
  int32_t width;
};

// What is done to the sum of a pixel's weighted texels, per channel: sum * scale + offset.
struct Normalisation {
  float scale[kChannels];
  float offset[kChannels];
};

// Adds the bilinear sample of a tap, moved to the right by `shift` columns in [0, width), to sum[3].
// Columns wrap; row -1 and row `height` are the mirrored rows, half a turn away.
CORA_HOST_DEVICE void add_sample(
    const Panorama& panorama, int32_t tap, const int16_t* weights, int32_t shift, int32_t* sum) {
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
    const uint8_t* line = panorama.texels + static_cast<int64_t>(row) * width * kChannels;
    for (int32_t column_step = 0; column_step < 2; ++column_step) {
      int32_t wrapped = column + column_step;
      // The column is below 2.5 widths.
      if (wrapped >= width) wrapped -= width;
      if (wrapped >= width) wrapped -= width;
      const uint8_t* texel = line + static_cast<int64_t>(wrapped) * kChannels;
      const int32_t weight = weights[2 * row_step + column_step];
      for (int channel = 0; channel < kChannels; ++channel) sum[channel] += weight * texel[channel];
    }
  }
}

}  // namespace cora
