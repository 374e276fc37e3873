// The same for 3 x 3 weights, which use a value too seldom for packing to pay: a few neighbouring tokens are convolved
// from where their surroundings lie and normalised while they are in a near cache. Included as, and by,
// depthwise_norm_kernels.h.

namespace cora::CORA_SIMD {

constexpr int64_t kTile = kRowsPerTile * kColumnsPerTile;  // tokens that are worked on together
constexpr int64_t kRowsAround = kRowsPerTile + 2, kColumnsAround = kColumnsPerTile + 2;

// The tokens of a tile and around it; zeros stand for those beyond the borders of the view.
template <typename T>
struct Surroundings {
  const T* at[kRowsAround][kColumnsAround];

  Surroundings(
      const DepthwiseNorm& op, const TokenGrid& tokens, int64_t view, int64_t row, int64_t column, const T* zeros) {
    for (int64_t line = 0; line < kRowsAround; ++line) {
      for (int64_t each = 0; each < kColumnsAround; ++each) {
        const int64_t y = row + line - 1, x = column + each - 1;
        const bool inside = y >= 0 && y < op.height && x >= 0 && x < op.width;
        at[line][each] = inside ? tokens.at<T>(view, y, x) : zeros;
      }
    }
  }
};

// Adds what one line of the surroundings gives a tile: its upper row by one row of weights, its lower one by the row
// before.
template <bool kUpper, bool kLower, typename T>
inline __attribute__((always_inline)) void add_line(
    const T* const (&line)[kColumnsAround], int64_t channel, int64_t count, const float* upper, const float* lower,
    Floats (&tile)[kRowsPerTile][kColumnsPerTile]) {
  Floats window[kColumnsAround];
#pragma GCC unroll 8
  for (int64_t each = 0; each < kColumnsAround; ++each) window[each] = load(line[each] + channel, count);
#pragma GCC unroll 3
  for (int64_t tap = 0; tap < 3; ++tap) {
    if (kUpper) {
      const Floats weight = load(upper + tap * kLanes);
#pragma GCC unroll 4
      for (int64_t each = 0; each < kColumnsPerTile; ++each) tile[0][each] += weight * window[each + tap];
    }
    if (kLower) {
      const Floats weight = load(lower + tap * kLanes);
#pragma GCC unroll 4
      for (int64_t each = 0; each < kColumnsPerTile; ++each) tile[1][each] += weight * window[each + tap];
    }
  }
}

// Adds the correlation of a group of channels with their weights to a tile.
template <typename T>
inline __attribute__((always_inline)) void correlate_tile(
    const DepthwiseNorm& op, const Surroundings<T>& x, int64_t channel, int64_t count,
    Floats (&tile)[kRowsPerTile][kColumnsPerTile]) {
  const float* weights = op.weights.data() + channel * 9;
  constexpr int64_t kStep = 3 * kLanes;
  add_line<true, false>(x.at[0], channel, count, weights, weights, tile);
  add_line<true, true>(x.at[1], channel, count, weights + kStep, weights, tile);
  add_line<true, true>(x.at[2], channel, count, weights + 2 * kStep, weights + kStep, tile);
  add_line<false, true>(x.at[3], channel, count, weights, weights + 2 * kStep, tile);
}

template <typename T>
inline __attribute__((always_inline)) void convolve_tile(
    const DepthwiseNorm& op, const Surroundings<T>& x, int64_t channel, int64_t count, float* values, int64_t stride,
    Floats (&totals)[kTile]) {
  const Floats bias = op.bias == nullptr ? Floats{} : load(op.bias + channel, count);
  Floats tile[kRowsPerTile][kColumnsPerTile];
  for (auto& line : tile) {
    for (auto& value : line) value = bias;
  }
  correlate_tile(op, x, channel, count, tile);
#pragma GCC unroll 8
  for (int64_t each = 0; each < kTile; ++each) {
    const Floats value = tile[each / kColumnsPerTile][each % kColumnsPerTile];
    store(values + each * stride + channel, value);
    totals[each] += value;
  }
}

template <typename T>
void forward_view_3x3(
    const DepthwiseNorm& op, const TokenGrid& y, const Normalised& kept, int64_t view, std::vector<float>& room) {
  // Tokens of 4 KiB would all fall on the same places of the cache.
  const int64_t stride = round_up(op.channels, kLanes) + 2 * kLanes;
  float* values = aligned(room, (kTile + 1) * stride);
  float* nothing = values + kTile * stride;
  std::memset(nothing, 0, sizeof(float) * stride);
  const T* zeros = reinterpret_cast<const T*>(nothing);
  const int64_t whole = op.channels / kLanes * kLanes;
  for (int64_t row = 0; row < op.height; row += kRowsPerTile) {
    for (int64_t column = 0; column < op.width; column += kColumnsPerTile) {
      const Surroundings<T> x(op, op.x, view, row, column, zeros);
      Floats totals[kTile] = {};
      for (int64_t channel = 0; channel < whole; channel += kLanes) {
        convolve_tile(op, x, channel, kLanes, values, stride, totals);
      }
      if (whole < op.channels) convolve_tile(op, x, whole, op.channels - whole, values, stride, totals);
      for (int64_t each = 0; each < kTile; ++each) {
        const int64_t at_row = row + each / kColumnsPerTile, at_column = column + each % kColumnsPerTile;
        if (at_row >= op.height || at_column >= op.width) continue;
        const float mean = sum(totals[each]) / static_cast<float>(op.channels);
        normalise_at<T>(op, values + each * stride, mean, y, kept, view, at_row, at_column);
      }
    }
  }
}

}  // namespace cora::CORA_SIMD
