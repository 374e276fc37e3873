// The depthwise convolution and LayerNorm of one view and their gradient, on the CPU. Included once for each
// instruction set, as simd.h is; the meaning is in cora/ops/reference/depthwise_norm.py.
//
// The same channels of neighbouring tokens are often a multiple of 4 KiB apart, which the first-level cache cannot
// hold. So a strip of rows is packed first: a group of channels of all its tokens side by side, with zeros around them.

#include "simd.h"

namespace cora::CORA_SIMD {

constexpr int64_t kGroupsPerPack = 128 / kLanes;
constexpr int64_t kRowsPerStrip = 16;
constexpr int64_t kRowsPerTile = 2, kColumnsPerTile = 4;  // outputs that are in registers at a time

inline int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

// Sizes of a packed strip: whole tiles, and what their weights reach.
struct Strip {
  int64_t first_row, num_rows;  // of the view
  int64_t rows, columns;        // packed

  Strip(const DepthwiseNorm& op, int64_t first)
      : first_row(first),
        num_rows(std::min(kRowsPerStrip, op.height - first)),
        rows(round_up(num_rows, kRowsPerTile) + op.size - 1),
        columns(round_up(op.width, kColumnsPerTile) + op.size - 1) {}

  int64_t floats() const { return rows * columns * kLanes; }
};

inline int64_t largest_pack(const DepthwiseNorm& op) { return kGroupsPerPack * Strip(op, 0).floats(); }

// Tokens between the one that is packed and the one that is fetched.
constexpr int64_t kTokensAhead = 4;

// Writes channels [lanes * group, ..) of a strip and its surroundings to packed[groups, rows, columns, lanes]; what
// lies beyond the borders of the view is not touched.
template <typename T>
void pack_strip(
    const DepthwiseNorm& op, const TokenGrid& tokens, int64_t view, const Strip& strip, int64_t group, int64_t groups,
    float* packed) {
  const int64_t reach = op.size / 2;
  const int64_t first = std::max<int64_t>(0, strip.first_row - reach);
  const int64_t last = std::min(op.height, strip.first_row + strip.rows - reach);
  for (int64_t row = first; row < last; ++row) {
    const int64_t line = row - strip.first_row + reach;
    for (int64_t column = 0; column < op.width; ++column) {
      const T* source = tokens.at<T>(view, row, column) + group * kLanes;
      // Past the end of a row the start of the next one follows, or nothing that matters.
      prefetch(source + kTokensAhead * tokens.column_stride, groups * kLanes * static_cast<int64_t>(sizeof(T)));
      float* target = packed + (line * strip.columns + column + reach) * kLanes;
      for (int64_t each = 0; each < groups; ++each) {
        const int64_t count = op.channels - (group + each) * kLanes;
        store(target + each * strip.floats(), load(source + each * kLanes, count));
      }
    }
  }
}

// What one row of a strip adds to a tile: to its upper outputs by one row of weights, to its lower ones by the row
// before. A value that is loaded once meets all of them.
template <int64_t K, bool kUpper, bool kLower>
inline __attribute__((always_inline)) void add_row(
    const float* row, const float* upper, const float* lower, Floats (&tile)[kRowsPerTile][kColumnsPerTile]) {
  Floats window[kColumnsPerTile];
#pragma GCC unroll 4
  for (int64_t column = 1; column < kColumnsPerTile; ++column) window[column] = load(row + (column - 1) * kLanes);
#pragma GCC unroll 8
  for (int64_t tap = 0; tap < K; ++tap) {
#pragma GCC unroll 4
    for (int64_t column = 1; column < kColumnsPerTile; ++column) window[column - 1] = window[column];
    window[kColumnsPerTile - 1] = load(row + (tap + kColumnsPerTile - 1) * kLanes);
    if (kUpper) {
      const Floats weight = load(upper + tap * kLanes);
#pragma GCC unroll 4
      for (int64_t column = 0; column < kColumnsPerTile; ++column) tile[0][column] += weight * window[column];
    }
    if (kLower) {
      const Floats weight = load(lower + tap * kLanes);
#pragma GCC unroll 4
      for (int64_t column = 0; column < kColumnsPerTile; ++column) tile[1][column] += weight * window[column];
    }
  }
}

// Writes a group of channels of the correlation of a packed strip with their weights.
template <int64_t K, typename T>
void correlate(
    const DepthwiseNorm& op, const Strip& strip, const float* packed, Floats bias, const TokenGrid& out, int64_t view,
    int64_t group) {
  const float* weights = op.weights.data() + group * K * K * kLanes;
  const int64_t count = op.channels - group * kLanes;
  const int64_t stride = strip.columns * kLanes;
  constexpr int64_t kStep = K * kLanes;
  for (int64_t row = 0; row < strip.num_rows; row += kRowsPerTile) {
    for (int64_t column = 0; column < op.width; column += kColumnsPerTile) {
      const float* source = packed + row * stride + column * kLanes;
      Floats tile[kRowsPerTile][kColumnsPerTile];
      for (auto& line : tile) {
        for (auto& value : line) value = bias;
      }
      add_row<K, true, false>(source, weights, weights, tile);
      for (int64_t tap = 1; tap < K; ++tap) {
        add_row<K, true, true>(source + tap * stride, weights + tap * kStep, weights + (tap - 1) * kStep, tile);
      }
      add_row<K, false, true>(source + K * stride, weights, weights + (K - 1) * kStep, tile);
      for (int64_t line = 0; line < std::min(kRowsPerTile, strip.num_rows - row); ++line) {
        for (int64_t each = 0; each < std::min(kColumnsPerTile, op.width - column); ++each) {
          T* target = out.at<T>(view, strip.first_row + row + line, column + each) + group * kLanes;
          store(target, tile[line][each], count);
          prefetch<true>(target + kLine / sizeof(T), kLine);  // where the next groups will be written
        }
      }
    }
  }
}

// Adds to the gradients [K, K, lanes] of `kRows` rows of weights what a strip says, from row `first` on.
template <int64_t K, int64_t kRows>
void add_weight_rows(
    const DepthwiseNorm& op, const Strip& strip, const float* x, const float* grad, int64_t first,
    float* weight_grads) {
  const int64_t stride = strip.columns * kLanes, centre = (K / 2) * (stride + kLanes);
  Floats sums[kRows * K];
  float* target = weight_grads + first * K * kLanes;
#pragma GCC unroll 16
  for (int64_t each = 0; each < kRows * K; ++each) sums[each] = load(target + each * kLanes);
  for (int64_t row = 0; row < strip.num_rows; ++row) {
    const float* inputs = x + (row + first) * stride;
    const float* outputs = grad + row * stride + centre;
    for (int64_t column = 0; column < op.width; ++column) {
      const Floats value = load(outputs + column * kLanes);
#pragma GCC unroll 2
      for (int64_t line = 0; line < kRows; ++line) {
#pragma GCC unroll 8
        for (int64_t tap = 0; tap < K; ++tap) {
          sums[line * K + tap] += value * load(inputs + line * stride + (column + tap) * kLanes);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (int64_t each = 0; each < kRows * K; ++each) store(target + each * kLanes, sums[each]);
}

template <int64_t K>
void add_weight_grads(
    const DepthwiseNorm& op, const Strip& strip, const float* x, const float* grad, float* weight_grads) {
  for (int64_t first = 0; first + 1 < K; first += 2) add_weight_rows<K, 2>(op, strip, x, grad, first, weight_grads);
  add_weight_rows<K, 1>(op, strip, x, grad, K - 1, weight_grads);
}

// Values of channels beyond the last are made 0.
inline Floats only(Floats values, int64_t count) {
  for (int64_t lane = count; lane < kLanes; ++lane) values[lane] = 0;
  return values;
}

inline void add(float* target, Floats values, int64_t count) { store(target, load(target, count) + values, count); }

// What one view works on.
struct ViewWorkspace {
  TokenGrid convolved;  // float[H, W, C] before the norm, or its gradient
  float* packed;        // of x
  float* packed_grad;   // of the gradient

  ViewWorkspace(const DepthwiseNorm& op, bool backward, std::vector<float>& room) {
    // Rows of 4 KiB would all fall on the same places of the cache.
    const int64_t token = round_up(op.channels, kLanes) + 2 * kLanes;
    const int64_t tokens = op.height * op.width * token, pack = largest_pack(op);
    float* first = aligned(room, tokens + (backward ? 2 : 1) * pack);
    convolved = {first, 0, op.width * token, token};
    packed = first + tokens;
    packed_grad = packed + pack;
  }
};

// Sums over the channels of a token; several at a time, since an addition waits for the one before.
template <typename Term>
inline float sum_channels(int64_t channels, const Term& term) {
  Floats sums[4] = {};
  const int64_t whole = channels / (4 * kLanes) * (4 * kLanes);
  for (int64_t first = 0; first < whole; first += 4 * kLanes) {
#pragma GCC unroll 4
    for (int64_t each = 0; each < 4; ++each) sums[each] += term(first + each * kLanes, kLanes);
  }
  for (int64_t first = whole; first < channels; first += kLanes) sums[0] += term(first, channels - first);
  return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// Normalises a token of C values that the convolution left, in two passes over them.
template <typename T>
void normalise(const DepthwiseNorm& op, const float* values, float mean, T* y, T* kept, float* factor) {
  const auto square = [&](int64_t first, int64_t count) {
    const Floats centred = load(values + first, count) - mean;
    return only(centred * centred, count);
  };
  const float variance = sum_channels(op.channels, square) / static_cast<float>(op.channels);
  const float scale = 1.0f / std::sqrt(variance + op.eps);
  for (int64_t first = 0; first < op.channels; first += kLanes) {
    const int64_t count = op.channels - first;
    const Floats normal = (load(values + first, count) - mean) * scale;
    if (kept != nullptr) store(kept + first, normal, count);
    store(y + first, normal * load(op.norm_weight + first, count) + load(op.norm_bias + first, count), count);
  }
  if (kept != nullptr) *factor = scale;
}

// The same where its result and what is kept of it belong.
template <typename T>
inline void normalise_at(
    const DepthwiseNorm& op, const float* values, float mean, const TokenGrid& y, const Normalised& kept, int64_t view,
    int64_t row, int64_t column) {
  T* target = y.at<T>(view, row, column);
  if (kept.values.data == nullptr) {
    normalise<T>(op, values, mean, target, nullptr, nullptr);
  } else {
    float* factor = kept.factors + (view * op.height + row) * op.width + column;
    normalise(op, values, mean, target, kept.values.at<T>(view, row, column), factor);
  }
}

template <int64_t K, typename T>
void forward_view(
    const DepthwiseNorm& op, const TokenGrid& y, const Normalised& kept, int64_t view, std::vector<float>& room) {
  const ViewWorkspace work(op, false, room);
  const int64_t groups = (op.channels + kLanes - 1) / kLanes;
  for (int64_t first = 0; first < op.height; first += kRowsPerStrip) {
    const Strip strip(op, first);
    std::memset(work.packed, 0, sizeof(float) * kGroupsPerPack * strip.floats());
    for (int64_t group = 0; group < groups; group += kGroupsPerPack) {
      const int64_t some = std::min(kGroupsPerPack, groups - group);
      pack_strip<T>(op, op.x, view, strip, group, some, work.packed);
      for (int64_t each = 0; each < some; ++each) {
        const int64_t channel = (group + each) * kLanes;
        const Floats bias = op.bias == nullptr ? Floats{} : load(op.bias + channel, op.channels - channel);
        const float* packed = work.packed + each * strip.floats();
        correlate<K, float>(op, strip, packed, bias, work.convolved, 0, group + each);
      }
    }
    for (int64_t row = first; row < first + strip.num_rows; ++row) {
      for (int64_t column = 0; column < op.width; ++column) {
        const float* values = work.convolved.at<float>(0, row, column);
        const auto value = [&](int64_t channel, int64_t count) { return load(values + channel, count); };
        const float mean = sum_channels(op.channels, value) / static_cast<float>(op.channels);
        normalise_at<T>(op, values, mean, y, kept, view, row, column);
      }
    }
  }
}

// Writes the gradient of what the convolution left of a token, and adds to those of the parameters behind it.
template <typename T>
void normalise_backward(
    const DepthwiseNorm& op, const T* y_grad, const T* normal, float factor, const DepthwiseNormGradients& grads,
    float* value_grads) {
  const auto scaled = [&](int64_t first, int64_t count) {
    return load(y_grad + first, count) * load(op.norm_weight + first, count);
  };
  const auto along = [&](int64_t first, int64_t count) { return scaled(first, count) * load(normal + first, count); };
  const float mean = sum_channels(op.channels, scaled) / static_cast<float>(op.channels);
  const float mean_along = sum_channels(op.channels, along) / static_cast<float>(op.channels);
  for (int64_t first = 0; first < op.channels; first += kLanes) {
    const int64_t count = op.channels - first;
    const Floats grad = load(y_grad + first, count), value = load(normal + first, count);
    const Floats value_grad = (grad * load(op.norm_weight + first, count) - mean - value * mean_along) * factor;
    store(value_grads + first, value_grad, count);
    add(grads.norm_weight + first, grad * value, count);
    add(grads.norm_bias + first, grad, count);
    add(grads.bias + first, value_grad, count);
  }
}

template <int64_t K, typename T>
void backward_view(
    const DepthwiseNorm& op, const TokenGrid& y_grad, const Normalised& kept, const DepthwiseNormGradients& grads,
    int64_t view, std::vector<float>& room) {
  const ViewWorkspace work(op, true, room);
  for (int64_t row = 0; row < op.height; ++row) {
    for (int64_t column = 0; column < op.width; ++column) {
      const float factor = kept.factors[(view * op.height + row) * op.width + column];
      normalise_backward<T>(
          op, y_grad.at<T>(view, row, column), kept.values.at<T>(view, row, column), factor, grads,
          work.convolved.at<float>(0, row, column));
    }
  }
  const int64_t groups = (op.channels + kLanes - 1) / kLanes;
  for (int64_t first = 0; first < op.height; first += kRowsPerStrip) {
    const Strip strip(op, first);
    std::memset(work.packed, 0, sizeof(float) * kGroupsPerPack * strip.floats());
    std::memset(work.packed_grad, 0, sizeof(float) * kGroupsPerPack * strip.floats());
    for (int64_t group = 0; group < groups; group += kGroupsPerPack) {
      const int64_t some = std::min(kGroupsPerPack, groups - group);
      pack_strip<T>(op, op.x, view, strip, group, some, work.packed);
      pack_strip<float>(op, work.convolved, 0, strip, group, some, work.packed_grad);
      for (int64_t each = 0; each < some; ++each) {
        const float* grad = work.packed_grad + each * strip.floats();
        correlate<K, T>(op, strip, grad, Floats{}, grads.x, view, group + each);
        float* weight_grads = grads.weights + (group + each) * K * K * kLanes;
        add_weight_grads<K>(op, strip, work.packed + each * strip.floats(), grad, weight_grads);
      }
    }
  }
}

}  // namespace cora::CORA_SIMD

#include "depthwise_norm_3x3.h"
