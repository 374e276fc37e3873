// cora::depthwise_norm_forward on CUDA devices: a block owns all channels of its tile, whose values meet in shared
// memory to be normalised.
#include <tuple>

#include "depthwise_norm.cuh"

namespace cora {
namespace {

constexpr int kForwardWarps = 16;
// Smaller tiles read more, and more of them keep the device busy.
constexpr int64_t kTilesWanted = 128;

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

}  // namespace
}  // namespace cora

STABLE_TORCH_LIBRARY_IMPL(cora, CUDA, library) {
  library.impl("depthwise_norm_forward", TORCH_BOX(&cora::depthwise_norm_forward_cuda));
}
