// cora::depthwise_norm_forward and cora::depthwise_norm_backward on CUDA devices; the meaning is in
// cora/ops/reference/depthwise_norm.py.
//
// The lanes of a warp are 64 channels, two of each, which lie side by side in memory. A thread holds the outputs of a
// tile of tokens in registers: a row of inputs that is read once meets all rows of weights that reach it. Forward, a
// block owns all channels of its tile, whose values meet in shared memory to be normalised.
//
// All sums are taken in an order of their own: the result is the same every time.
#include <tuple>
#include <type_traits>

#include "../depthwise_norm.h"
#include "launch.cuh"

namespace cora {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

constexpr int kRows = 4, kColumns = 8;  // of a tile, at most
constexpr int kGroup = 2 * kWarp;       // channels of a warp
constexpr int kForwardWarps = 16;
constexpr int kInputWarps = 8;
constexpr int kWeightWarps = 4;
constexpr int kNormWarps = 8;
// Smaller tiles read more, and more of them keep the device busy.
constexpr int64_t kTilesWanted = 128;
// Parts of the tokens with sums of their own, at most: their number, and so the result, depends on the shape alone.
constexpr int64_t kWeightParts = 32;
constexpr int64_t kNormParts = 512;

// The gradient between the norm and the convolution. It is written once and read often, so it is narrow where x is; but
// float16 may not have the range.
template <typename T>
using Between = std::conditional_t<std::is_same_v<T, BFloat16>, BFloat16, float>;

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

// Normalises the tokens of a tile that the convolution left in values[tokens, padded]; a warp takes one at a time.
template <typename T>
__device__ void normalise_tile(
    const Sizes& sizes, const Tile& tile, const float* values, const float* norm_weight, const float* norm_bias,
    float eps, int warps, const Tokens<T>& y, const Tokens<T>& normal, float* factors) {
  const int lane = static_cast<int>(threadIdx.x);
  for (int first = 0; first < tile.tokens(); first += warps) {
    const int token = first + static_cast<int>(threadIdx.y);
    const bool is_there = token < tile.tokens();
    const float* own = values + (is_there ? token : 0) * sizes.padded;
    float sum = 0.0f, squares = 0.0f;
    for (int channel = lane; channel < sizes.channels; channel += kWarp) sum += own[channel];
    const float mean = sum_over_warp(sum) / static_cast<float>(sizes.channels);
    for (int channel = lane; channel < sizes.channels; channel += kWarp) {
      const float centred = own[channel] - mean;
      squares = fmaf(centred, centred, squares);
    }
    const float factor = 1.0f / sqrtf(sum_over_warp(squares) / static_cast<float>(sizes.channels) + eps);
    if (!is_there) continue;
    const int row = tile.row + token / tile.columns, column = tile.column + token % tile.columns;
    T* target = y.at(tile.view, row, column);
    const int kept = (tile.view * sizes.height + row) * sizes.width + column;
    for (int channel = 2 * lane; channel < sizes.channels; channel += kGroup) {
      const Pair scale = pair_at(norm_weight, channel, sizes.channels);
      const Pair shift = pair_at(norm_bias, channel, sizes.channels);
      const Pair value = {(own[channel] - mean) * factor, (own[channel + 1] - mean) * factor};
      if (factors != nullptr) normal.write(normal.at(kept), channel, value);
      y.write(
          target, channel,
          {fmaf(value.first, scale.first, shift.first), fmaf(value.second, scale.second, shift.second)});
    }
    if (factors != nullptr && lane == 0) factors[kept] = factor;
  }
}

template <int K, typename T>
__global__ void __launch_bounds__(kForwardWarps* kWarp) forward_kernel(
    Sizes sizes, Tokens<T> x, const float* __restrict__ weights, const float* __restrict__ bias,
    const float* __restrict__ norm_weight, const float* __restrict__ norm_bias, float eps, int warps, Tokens<T> y,
    Tokens<T> normal, float* factors) {
  const Tile tile(sizes, static_cast<int>(blockIdx.x));
  float* values = shared_memory();
  for (int group = static_cast<int>(threadIdx.y); group < sizes.groups; group += warps) {
    const int channel = group * kGroup + 2 * static_cast<int>(threadIdx.x);
    const Pair start = pair_at(bias, channel, sizes.channels);
    Pair sums[kRows][kColumns];
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
#pragma unroll
      for (int column = 0; column < kColumns; ++column) sums[row][column] = start;
    }
    correlate<K>(sizes, x, weights, tile, channel, sums);
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
#pragma unroll
      for (int column = 0; column < kColumns; ++column) {
        if (row >= tile.rows || column >= tile.columns) continue;
        *reinterpret_cast<Pair*>(values + (row * tile.columns + column) * sizes.padded + channel) = sums[row][column];
      }
    }
  }
  __syncthreads();
  normalise_tile(sizes, tile, values, norm_weight, norm_bias, eps, warps, y, normal, factors);
}

// The warps of a block take neighbouring tiles of the same channels: they share weights and borders in the cache.
template <int K, typename T>
__global__ void __launch_bounds__(kInputWarps* kWarp, 2)
    input_grad_kernel(Sizes sizes, Tokens<Between<T>> value_grad, const float* __restrict__ weights, Tokens<T> x_grad) {
  const int group = static_cast<int>(blockIdx.x) % sizes.groups;
  const int index = static_cast<int>(blockIdx.x) / sizes.groups * kInputWarps + static_cast<int>(threadIdx.y);
  if (index >= sizes.tiles()) return;
  const Tile tile(sizes, index);
  const int channel = group * kGroup + 2 * static_cast<int>(threadIdx.x);
  Pair sums[kRows][kColumns] = {};
  correlate<K>(sizes, value_grad, weights, tile, channel, sums);
#pragma unroll
  for (int row = 0; row < kRows; ++row) {
#pragma unroll
    for (int column = 0; column < kColumns; ++column) {
      if (row >= tile.rows || column >= tile.columns) continue;
      x_grad.write(x_grad.at(tile.view, tile.row + row, tile.column + column), channel, sums[row][column]);
    }
  }
}

// A block sums up the gradients of the weights of 64 channels over one part of the tokens, a warp over every fourth
// piece of a row in it, to [parts, C, K, K].
template <int K, typename T>
__global__ void __launch_bounds__(kWeightWarps* kWarp) weight_grad_kernel(
    Sizes sizes, Tokens<T> x, Tokens<Between<T>> value_grad, int parts, float* __restrict__ weight_grad) {
  const int lane = static_cast<int>(threadIdx.x), warp = static_cast<int>(threadIdx.y);
  const int group = static_cast<int>(blockIdx.x) % sizes.groups, part = static_cast<int>(blockIdx.x) / sizes.groups;
  const int channel = group * kGroup + 2 * lane;
  const int64_t pieces = sizes.tiles();
  const int last = static_cast<int>((part + 1) * pieces / parts);
  Pair sums[K][K] = {};
  for (int piece = static_cast<int>(part * pieces / parts) + warp; piece < last; piece += kWeightWarps) {
    const Tile tile(sizes, piece);  // of one row
    Pair grads[kColumns];
    value_grad.read_row(tile.view, tile.row, tile.column, sizes.width, channel, grads);
#pragma unroll
    for (int line = 0; line < K; ++line) {
      const int row = tile.row + line - K / 2;
      if (row < 0 || row >= sizes.height) continue;
      Pair window[kColumns + K - 1];
      x.read_row(tile.view, row, tile.column - K / 2, sizes.width, channel, window);
#pragma unroll
      for (int tap = 0; tap < K; ++tap) {
#pragma unroll
        for (int column = 0; column < kColumns; ++column) {
          add_product(sums[line][tap], grads[column], window[tap + column]);
        }
      }
    }
  }
  float* totals = shared_memory();  // [64, K, K]
  for (int turn = 0; turn < kWeightWarps; ++turn) {
    if (turn == warp) {
      float* own = totals + 2 * lane * K * K;
#pragma unroll
      for (int tap = 0; tap < K * K; ++tap) {
        const Pair sum = sums[tap / K][tap % K];
        own[tap] = turn == 0 ? sum.first : own[tap] + sum.first;
        own[K * K + tap] = turn == 0 ? sum.second : own[K * K + tap] + sum.second;
      }
    }
    __syncthreads();
  }
  const int remaining = sizes.channels - group * kGroup;
  const int count = (remaining < kGroup ? remaining : kGroup) * K * K;
  float* target = weight_grad + (static_cast<int64_t>(part) * sizes.channels + group * kGroup) * (K * K);
  for (int each = warp * kWarp + lane; each < count; each += kWeightWarps * kWarp) target[each] = totals[each];
}

// What the threads of a block need of a token to take its gradient through the norm.
struct Through {
  int64_t place;              // of the gradient of y
  float factor, mean, along;  // means of the scaled gradient, and of that times the normalised values
};

// Writes the gradient before the norm of one part of the tokens, and the part's sums for three parameters. Of each
// eight tokens a warp takes one first, to sum over its channels; then a thread takes two channels of all.
template <typename T>
__global__ void __launch_bounds__(kNormWarps* kWarp) norm_backward_kernel(
    Sizes sizes, Tokens<T> y_grad, Tokens<T> normal, const float* __restrict__ factors,
    const float* __restrict__ norm_weight, int parts, Tokens<Between<T>> value_grad, float* __restrict__ bias_grad,
    float* __restrict__ norm_weight_grad, float* __restrict__ norm_bias_grad) {
  const int lane = static_cast<int>(threadIdx.x), warp = static_cast<int>(threadIdx.y);
  const int part = static_cast<int>(blockIdx.x), tokens = sizes.tokens();
  Through* through = reinterpret_cast<Through*>(shared_memory());
  Pair* sums = reinterpret_cast<Pair*>(through + kNormWarps);  // [3, padded / 2]
  const int own = 2 * (warp * kWarp + lane), half = sizes.padded / 2;
  for (int channel = own; channel < sizes.padded; channel += kNormWarps * kGroup) {
    for (int each = 0; each < 3; ++each) sums[each * half + channel / 2] = {0.0f, 0.0f};
  }
  for (int64_t first = int64_t{part} * kNormWarps; first < tokens; first += int64_t{parts} * kNormWarps) {
    const bool is_there = first + warp < tokens;
    const int token = static_cast<int>(is_there ? first + warp : first);
    const T* grads =
        y_grad.at(token / sizes.width / sizes.height, token / sizes.width % sizes.height, token % sizes.width);
    const T* values = normal.at(token);
    float mean = 0.0f, along = 0.0f;
    for (int channel = 2 * lane; channel < sizes.channels; channel += kGroup) {
      const Pair scale = pair_at(norm_weight, channel, sizes.channels);
      const Pair grad = y_grad.read(grads, channel), value = normal.read(values, channel);
      const Pair scaled = {grad.first * scale.first, grad.second * scale.second};
      mean += scaled.first + scaled.second;
      along = fmaf(scaled.first, value.first, fmaf(scaled.second, value.second, along));
    }
    mean = sum_over_warp(mean) / static_cast<float>(sizes.channels);
    along = sum_over_warp(along) / static_cast<float>(sizes.channels);
    if (lane == 0) through[warp] = {grads - y_grad.at(0, 0, 0), factors[token], mean, along};
    __syncthreads();
    const int count = tokens - first < kNormWarps ? static_cast<int>(tokens - first) : kNormWarps;
    for (int channel = own; channel < sizes.channels; channel += kNormWarps * kGroup) {
      const Pair scale = pair_at(norm_weight, channel, sizes.channels);
      Pair totals[3];
#pragma unroll
      for (int each = 0; each < 3; ++each) totals[each] = sums[each * half + channel / 2];
      for (int each = 0; each < count; ++each) {
        const Through of = through[each];
        const int at = static_cast<int>(first) + each;
        const Pair grad = y_grad.read(y_grad.at(0, 0, 0) + of.place, channel);
        const Pair value = normal.read(normal.at(at), channel);
        const Pair before = {
            (grad.first * scale.first - of.mean - value.first * of.along) * of.factor,
            (grad.second * scale.second - of.mean - value.second * of.along) * of.factor};
        value_grad.write(value_grad.at(at), channel, before);
        totals[0].first += before.first;
        totals[0].second += before.second;
        add_product(totals[1], grad, value);
        totals[2].first += grad.first;
        totals[2].second += grad.second;
      }
#pragma unroll
      for (int each = 0; each < 3; ++each) sums[each * half + channel / 2] = totals[each];
    }
    __syncthreads();
  }
  for (int channel = own; channel < sizes.channels; channel += kNormWarps * kGroup) {
    float* const targets[3] = {bias_grad, norm_weight_grad, norm_bias_grad};
#pragma unroll
    for (int each = 0; each < 3; ++each) {
      float* target = targets[each] + static_cast<int64_t>(part) * sizes.channels + channel;
      const Pair sum = sums[each * half + channel / 2];
      target[0] = sum.first;
      if (channel + 1 < sizes.channels) target[1] = sum.second;
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

// Tiles whose values a block can share, and small enough for as many as there should be.
Sizes forward_sizes(const DepthwiseNorm& op) {
  const int64_t token_bytes = Sizes(op, 1, 1).padded * static_cast<int64_t>(sizeof(float));
  const int64_t tokens = largest_shared_memory() / token_bytes;
  STD_TORCH_CHECK(tokens >= 1, "depthwise_norm: a token of ", op.channels, " channels does not fit into shared memory");
  const int columns = static_cast<int>(std::min<int64_t>(kColumns, tokens));
  int rows = static_cast<int>(std::min<int64_t>(kRows, tokens / columns));
  while (rows > 1 && Sizes(op, rows, columns).tiles() < kTilesWanted) rows /= 2;
  return Sizes(op, rows, columns);
}

template <int K, typename T>
void launch_forward(
    const DepthwiseNorm& op, const Tensor& weight, const TokenGrid& y, const Normalised& kept, cudaStream_t stream) {
  const Sizes sizes = forward_sizes(op);
  if (sizes.tiles() == 0) return;
  const Tensor weights = pack_weights(sizes, weight, false, stream);
  const int warps = std::min(kForwardWarps, sizes.groups);
  launch(
      "depthwise_norm", forward_kernel<K, T>, sizes.tiles(), dim3(kWarp, warps),
      sizes.rows * sizes.columns * sizes.padded * sizeof(float), stream, sizes, Tokens<T>(op.x, sizes.channels),
      floats_of(weights), op.bias, op.norm_weight, op.norm_bias, op.eps, warps, Tokens<T>(y, sizes.channels),
      Tokens<T>(kept.values, sizes.channels), kept.factors);
}

template <typename T>
void forward_all(
    const DepthwiseNorm& op, const Tensor& weight, const TokenGrid& y, const Normalised& kept, cudaStream_t stream) {
  if (op.size == 3) {
    launch_forward<3, T>(op, weight, y, kept, stream);
  } else if (op.size == 5) {
    launch_forward<5, T>(op, weight, y, kept, stream);
  } else {
    launch_forward<7, T>(op, weight, y, kept, stream);
  }
}

// The result; then, where they are to be kept, what the backward pass needs of each token.
std::tuple<Tensor, Tensor, Tensor> depthwise_norm_forward_cuda(
    const Tensor& x, const Tensor& weight, std::optional<Tensor> bias, const Tensor& norm_weight,
    const Tensor& norm_bias, double eps, bool keep) {
  const Launcher launcher(x);
  const DepthwiseNorm op = check_depthwise_norm(x, weight, bias, norm_weight, norm_bias, eps);
  const int64_t kept_views = keep ? op.views : 0;
  const Tensor y = torch::stable::new_empty(x, {op.views, op.height, op.width, op.channels});
  const Tensor normal = torch::stable::new_empty(x, {kept_views, op.height, op.width, op.channels});
  const Tensor factors = torch::stable::new_empty(weight, {kept_views, op.height, op.width});
  const Normalised kept = {grid_of(normal), keep ? floats_of(factors) : nullptr};
  if (x.scalar_type() == ScalarType::Float) {
    forward_all<float>(op, weight, grid_of(y), kept, launcher.stream);
  } else if (x.scalar_type() == ScalarType::Half) {
    forward_all<Half>(op, weight, grid_of(y), kept, launcher.stream);
  } else {
    forward_all<BFloat16>(op, weight, grid_of(y), kept, launcher.stream);
  }
  return {y, normal, factors};
}

// How many parts of the tokens have gradients of their own: of the weights, and of the other parameters.
struct Parts {
  int weight, norm;

  explicit Parts(const DepthwiseNorm& op) {
    const Sizes pieces(op, 1, kColumns);
    weight = static_cast<int>(std::min<int64_t>(kWeightParts, pieces.tiles()));
    norm = static_cast<int>(std::min<int64_t>(kNormParts, (int64_t{pieces.tokens()} + kNormWarps - 1) / kNormWarps));
  }
};

template <int K, typename T>
void launch_backward(
    const DepthwiseNorm& op, const Tensor& weight, const Tokens<T>& x_grad, const Tensor& value_grad,
    float* weight_grad, cudaStream_t stream) {
  const Sizes tiles(op, kRows, kColumns), pieces(op, 1, kColumns);
  const Tensor weights = pack_weights(tiles, weight, true, stream);
  const Tokens<Between<T>> between(grid_of(value_grad), tiles.channels);
  const int64_t blocks = (int64_t{tiles.tiles()} + kInputWarps - 1) / kInputWarps;
  launch(
      "depthwise_norm", input_grad_kernel<K, T>, blocks * tiles.groups, dim3(kWarp, kInputWarps), 0, stream, tiles,
      between, floats_of(weights), x_grad);
  const int parts = Parts(op).weight;
  launch(
      "depthwise_norm", weight_grad_kernel<K, T>, int64_t{parts} * pieces.groups, dim3(kWarp, kWeightWarps),
      kGroup * K * K * sizeof(float), stream, pieces, Tokens<T>(op.x, tiles.channels), between, parts, weight_grad);
}

// The gradients of the parameters, for each part.
struct ParameterGrads {
  float *weight, *bias, *norm_weight, *norm_bias;
};

template <typename T>
void backward_all(
    const DepthwiseNorm& op, const Tensor& weight, const TokenGrid& y_grad, const Normalised& kept,
    const TokenGrid& x_grad, const ParameterGrads& grads, const Tensor& like, cudaStream_t stream) {
  const Sizes sizes(op, kRows, kColumns);
  if (sizes.tokens() == 0) return;
  const Tensor value_grad = torch::stable::new_empty(like, {op.views, op.height, op.width, op.channels});
  const int parts = Parts(op).norm;
  launch(
      "depthwise_norm", norm_backward_kernel<T>, parts, dim3(kWarp, kNormWarps),
      kNormWarps * sizeof(Through) + 3 * sizes.padded * sizeof(float), stream, sizes, Tokens<T>(y_grad, sizes.channels),
      Tokens<T>(kept.values, sizes.channels), kept.factors, op.norm_weight, parts,
      Tokens<Between<T>>(grid_of(value_grad), sizes.channels), grads.bias, grads.norm_weight, grads.norm_bias);
  const Tokens<T> target(x_grad, sizes.channels);
  if (op.size == 3) {
    launch_backward<3, T>(op, weight, target, value_grad, grads.weight, stream);
  } else if (op.size == 5) {
    launch_backward<5, T>(op, weight, target, value_grad, grads.weight, stream);
  } else {
    launch_backward<7, T>(op, weight, target, value_grad, grads.weight, stream);
  }
}

// The gradient of x, then those of the four parameters for each part of the tokens: the caller adds them up.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> depthwise_norm_backward_cuda(
    const Tensor& y_grad, const Tensor& x, const Tensor& weight, const Tensor& norm_weight, const Tensor& normal,
    const Tensor& factors) {
  const Launcher launcher(x);
  // Neither the two biases nor eps matter here.
  const DepthwiseNorm op = check_depthwise_norm(x, weight, std::nullopt, norm_weight, norm_weight, 0);
  const TokenGrid output = check_grid(y_grad, x, "depthwise_norm: the gradient of y");
  const Normalised kept = {check_grid(normal, x, "depthwise_norm: what was kept"), floats_of(factors)};
  STD_TORCH_CHECK(normal.is_contiguous(), "depthwise_norm: what was kept is contiguous");
  check_parameter(factors, {op.views, op.height, op.width}, x, "depthwise_norm: the factors");
  const Parts parts(op);
  const Tensor x_grad = torch::stable::new_empty(x, {op.views, op.height, op.width, op.channels});
  const Tensor weight_grad = torch::stable::new_empty(weight, {parts.weight, op.channels, op.size, op.size});
  const Tensor bias_grad = torch::stable::new_empty(weight, {parts.norm, op.channels});
  const Tensor norm_weight_grad = torch::stable::new_empty(weight, {parts.norm, op.channels});
  const Tensor norm_bias_grad = torch::stable::new_empty(weight, {parts.norm, op.channels});
  const ParameterGrads grads = {
      floats_of(weight_grad), floats_of(bias_grad), floats_of(norm_weight_grad), floats_of(norm_bias_grad)};
  const TokenGrid target = grid_of(x_grad);
  if (x.scalar_type() == ScalarType::Float) {
    backward_all<float>(op, weight, output, kept, target, grads, weight, launcher.stream);
  } else if (x.scalar_type() == ScalarType::Half) {
    backward_all<Half>(op, weight, output, kept, target, grads, weight, launcher.stream);
  } else {
    backward_all<BFloat16>(op, weight, output, kept, target, grads, x, launcher.stream);
  }
  return {x_grad, weight_grad, bias_grad, norm_weight_grad, norm_bias_grad};
}

}  // namespace
}  // namespace cora

STABLE_TORCH_LIBRARY_IMPL(cora, CUDA, library) {
  library.impl("depthwise_norm_forward", TORCH_BOX(&cora::depthwise_norm_forward_cuda));
  library.impl("depthwise_norm_backward", TORCH_BOX(&cora::depthwise_norm_backward_cuda));
}
