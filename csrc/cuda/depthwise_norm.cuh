// What the kernels of the depthwise convolution and LayerNorm share; the meaning is in
// cora/ops/reference/depthwise_norm.py.
//
// The lanes of a warp are 64 channels, two of each, which lie side by side in memory. A thread holds the outputs of a
// tile of tokens in registers: a row of inputs that is read once meets all rows of weights that reach it.
//
// All sums are taken in an order of their own: the result is the same every time.
#pragma once

#include "../depthwise_norm.h"
#include "launch.cuh"

namespace cora {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

constexpr int kRows = 4, kColumns = 8;  // of a tile, at most
constexpr int kGroup = 2 * kWarp;       // channels of a warp

template <typename T>
struct alignas(2 * sizeof(T)) Two {
  T first, second;
};
using Pair = Two<float>;

__device__ __forceinline__ void add_product(Pair& sum, Pair one, Pair other) {
  sum.first = fmaf(one.first, other.first, sum.first);
  sum.second = fmaf(one.second, other.second, sum.second);
}

// Sizes, and how the tokens are cut into tiles.
struct Sizes {
  int views, height, width, channels;
  int groups, padded;            // groups of 64 channels; their number of channels
  int rows, columns;             // of a tile
  int tiles_down, tiles_across;  // of a view

  Sizes(const DepthwiseNorm& op, int rows, int columns)
      : views(static_cast<int>(op.views)),
        height(static_cast<int>(op.height)),
        width(static_cast<int>(op.width)),
        channels(static_cast<int>(op.channels)),
        groups((channels + kGroup - 1) / kGroup),
        padded(groups * kGroup),
        rows(rows),
        columns(columns),
        tiles_down((height + rows - 1) / rows),
        tiles_across((width + columns - 1) / columns) {
    STD_TORCH_CHECK(
        op.views * op.height * op.width < (int64_t{1} << 31), "depthwise_norm: the input is too large for one launch");
  }
  __host__ __device__ int tokens() const { return views * height * width; }
  __host__ __device__ int tiles() const { return views * tiles_down * tiles_across; }
};

// Tokens, two channels of which are read and written at a time where their places in memory allow it.
template <typename T>
struct Tokens {
  TokenGrid grid;
  int channels;
  bool is_paired;

  Tokens(const TokenGrid& grid, int channels) : grid(grid), channels(channels) {
    const int64_t apart = grid.view_stride | grid.row_stride | grid.column_stride | channels;
    is_paired = apart % 2 == 0 && reinterpret_cast<uintptr_t>(grid.data) % sizeof(Two<T>) == 0;
  }
  __device__ T* at(int view, int row, int column) const { return grid.at<T>(view, row, column); }
  // For tokens that follow each other in memory.
  __device__ T* at(int token) const { return static_cast<T*>(grid.data) + static_cast<int64_t>(token) * channels; }

  template <bool kPaired>
  __device__ Two<T> load(const T* token, int channel, bool is_inside) const {
    Two<T> values = {};
    if (kPaired) {
      if (is_inside && channel < channels) values = *reinterpret_cast<const Two<T>*>(token + channel);
      return values;
    }
    if (is_inside && channel < channels) values.first = token[channel];
    if (is_inside && channel + 1 < channels) values.second = token[channel + 1];
    return values;
  }
  // Channels beyond the last are 0, and are not written.
  __device__ Pair read(const T* token, int channel) const {
    const Two<T> values = is_paired ? load<true>(token, channel, true) : load<false>(token, channel, true);
    return {static_cast<float>(values.first), static_cast<float>(values.second)};
  }
  __device__ void write(T* token, int channel, Pair values) const {
    if (channel >= channels) return;
    if (is_paired) {
      *reinterpret_cast<Two<T>*>(token + channel) = {static_cast<T>(values.first), static_cast<T>(values.second)};
      return;
    }
    token[channel] = static_cast<T>(values.first);
    if (channel + 1 < channels) token[channel + 1] = static_cast<T>(values.second);
  }
  template <bool kPaired, int kCount>
  __device__ void read_row_as(int view, int row, int column, int width, int channel, Pair (&values)[kCount]) const {
    const T* token = at(view, row, column);
    // All are on their way before the first one is used.
    Two<T> loaded[kCount];
#pragma unroll
    for (int each = 0; each < kCount; ++each) {
      const bool is_inside = column + each >= 0 && column + each < width;
      loaded[each] = load<kPaired>(token, channel, is_inside);
      token += grid.column_stride;
    }
#pragma unroll
    for (int each = 0; each < kCount; ++each) {
      values[each] = {static_cast<float>(loaded[each].first), static_cast<float>(loaded[each].second)};
    }
  }
  // Reads neighbours in a row, which are 0 beyond its ends.
  template <int kCount>
  __device__ void read_row(int view, int row, int column, int width, int channel, Pair (&values)[kCount]) const {
    if (is_paired) {
      read_row_as<true>(view, row, column, width, channel, values);
    } else {
      read_row_as<false>(view, row, column, width, channel, values);
    }
  }
};

// A tile of tokens: its place, and the size of the part that is inside the view.
struct Tile {
  int view, row, column, rows, columns;

  __device__ Tile(const Sizes& sizes, int index) {
    column = index % sizes.tiles_across * sizes.columns;
    index /= sizes.tiles_across;
    row = index % sizes.tiles_down * sizes.rows;
    view = index / sizes.tiles_down;
    rows = sizes.height - row < sizes.rows ? sizes.height - row : sizes.rows;
    columns = sizes.width - column < sizes.columns ? sizes.width - column : sizes.columns;
  }
  __device__ int tokens() const { return rows * columns; }
};

__device__ __forceinline__ Pair pair_at(const float* values, int channel, int channels) {
  if (values == nullptr) return {0.0f, 0.0f};
  return {channel < channels ? values[channel] : 0.0f, channel + 1 < channels ? values[channel + 1] : 0.0f};
}

__device__ __forceinline__ float sum_over_warp(float value) {
#pragma unroll
  for (int mask = kWarp / 2; mask >= 1; mask /= 2) value += __shfl_xor_sync(0xffffffff, value, mask);
  return value;
}

// Takes weights [C, K, K] to [K, K, padded], those beyond the last channel 0; in reverse for the gradient of x.
__global__ void pack_weights_kernel(
    Sizes sizes, const float* __restrict__ weight, int taps, bool backwards, float* __restrict__ packed) {
  const int place = static_cast<int>(blockIdx.x) * kWarp + static_cast<int>(threadIdx.x);
  const int channel = place % sizes.padded, tap = place / sizes.padded;
  packed[place] = channel < sizes.channels ? weight[channel * taps + (backwards ? taps - 1 - tap : tap)] : 0.0f;
}

// Adds to a tile the correlation of tokens with their weights.
template <int K, typename T>
__device__ __forceinline__ void correlate(
    const Sizes& sizes, const Tokens<T>& tokens, const float* weights, const Tile& tile, int channel,
    Pair (&sums)[kRows][kColumns]) {
  for (int line = 0; line < tile.rows + K - 1; ++line) {
    const int row = tile.row + line - K / 2;
    if (row < 0 || row >= sizes.height) continue;
    Pair window[kColumns + K - 1];
    tokens.read_row(tile.view, row, tile.column - K / 2, sizes.width, channel, window);
#pragma unroll
    for (int out = 0; out < kRows; ++out) {
      const int tap_row = line - out;
      if (tap_row < 0 || tap_row >= K || out >= tile.rows) continue;
      const float* own = weights + tap_row * K * sizes.padded + channel;
#pragma unroll
      for (int tap = 0; tap < K; ++tap) {
        const Pair weight = *reinterpret_cast<const Pair*>(own + tap * sizes.padded);
#pragma unroll
        for (int column = 0; column < kColumns; ++column) add_product(sums[out][column], weight, window[tap + column]);
      }
    }
  }
}

Tensor pack_weights(const Sizes& sizes, const Tensor& weight, bool backwards, cudaStream_t stream) {
  const int taps = static_cast<int>(weight.size(1) * weight.size(2));
  const Tensor packed = torch::stable::new_empty(weight, {taps, sizes.padded});
  launch(
      "depthwise_norm", pack_weights_kernel, int64_t{taps} * sizes.padded / kWarp, dim3(kWarp), 0, stream, sizes,
      static_cast<const float*>(weight.const_data_ptr()), taps, backwards, floats_of(packed));
  return packed;
}

}  // namespace
}  // namespace cora
