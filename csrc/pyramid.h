// Trilinear samples of a panorama's pyramid: the arithmetic that the CPU and the CUDA operation share.
//
// Positions are computed in double, as in the reference, so that all implementations pick the same texels.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define CORA_HOST_DEVICE __host__ __device__
#else
#define CORA_HOST_DEVICE
#endif

namespace cora {

constexpr int kMaxLevels = 24;
constexpr int kChannels = 3;

// Levels of a panorama, each float[height][width][3], row-major; level 0 is the panorama itself.
struct Pyramid {
  const float* texels[kMaxLevels];
  int32_t height[kMaxLevels];
  int32_t width[kMaxLevels];
  int32_t count;
};

// Rounds a value above -1 down; floor() is a function call on processors without SSE4.1.
CORA_HOST_DEVICE inline int floor_to_int(double value) { return static_cast<int>(value + 1.0) - 1; }

CORA_HOST_DEVICE inline double clamp(double value, double low, double high) {
  return value < low ? low : value > high ? high : value;
}

// Adds weight * (bilinear sample of one level at the fractions x, y of its size, both in [0, 1]) to sum[3].
// Columns wrap; row -1 and row `height` are the mirrored rows, half a turn away.
CORA_HOST_DEVICE inline void add_bilinear(
    const Pyramid& pyramid, int level, double x, double y, float weight, float* sum) {
  const int height = pyramid.height[level];
  const int width = pyramid.width[level];
  const double column = x * width - 0.5;
  const double row = y * height - 0.5;
  const int left = floor_to_int(column);
  const int top = floor_to_int(row);
  const float fraction_x = static_cast<float>(column - left);
  const float fraction_y = static_cast<float>(row - top);
  for (int row_step = 0; row_step < 2; ++row_step) {
    int tap_row = top + row_step;
    const bool over_pole = tap_row < 0 || tap_row >= height;
    if (over_pole) tap_row = tap_row < 0 ? -1 - tap_row : 2 * height - 1 - tap_row;
    const float weight_y = weight * (row_step ? fraction_y : 1.0f - fraction_y);
    for (int column_step = 0; column_step < 2; ++column_step) {
      int tap_column = left + column_step + (over_pole ? width / 2 : 0);
      if (tap_column < 0) tap_column += width;
      if (tap_column >= width) tap_column -= width;
      const float tap_weight = weight_y * (column_step ? fraction_x : 1.0f - fraction_x);
      const float* texel = pyramid.texels[level] + (static_cast<int64_t>(tap_row) * width + tap_column) * kChannels;
      for (int channel = 0; channel < kChannels; ++channel) sum[channel] += tap_weight * texel[channel];
    }
  }
}

// Adds weight * (trilinear sample at the fractions x, y of the panorama and at a level of detail) to sum[3].
// x may be outside [0, 1) by whole turns to the right.
CORA_HOST_DEVICE inline void add_trilinear(
    const Pyramid& pyramid, double x, double y, double level, float weight, float* sum) {
  x -= floor_to_int(x);
  y = clamp(y, 0.0, 1.0);
  level = clamp(level, 0.0, pyramid.count - 1);
  const int finer = static_cast<int>(level);
  const float share = static_cast<float>(level - finer);
  add_bilinear(pyramid, finer, x, y, weight * (1.0f - share), sum);
  if (share > 0.0f) add_bilinear(pyramid, finer + 1, x, y, weight * share, sum);
}

// Returns in sum[3] one view pixel: the mean of samples * samples trilinear samples.
// positions: float[rows * samples][columns * samples][3] of x, y and level relative to `level_offset`.
CORA_HOST_DEVICE inline void sample_pixel(
    const Pyramid& pyramid, const float* positions, int64_t columns, int64_t samples, int64_t row, int64_t column,
    double turn, double level_offset, float* sum) {
  const float weight = 1.0f / static_cast<float>(samples * samples);
  turn -= floor(turn);
  for (int channel = 0; channel < kChannels; ++channel) sum[channel] = 0.0f;
  for (int64_t i = 0; i < samples; ++i) {
    for (int64_t j = 0; j < samples; ++j) {
      const float* position = positions + ((row * samples + i) * columns * samples + column * samples + j) * 3;
      add_trilinear(pyramid, position[0] + turn, position[1], position[2] + level_offset, weight, sum);
    }
  }
}

}  // namespace cora
