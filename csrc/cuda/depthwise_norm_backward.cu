// cora::depthwise_norm_backward on CUDA devices: through the norm, and from there to x and to the weights.
#include <tuple>
#include <type_traits>

#include "depthwise_norm.cuh"

namespace cora {
namespace {

constexpr int kInputWarps = 8;
constexpr int kWeightWarps = 4;
constexpr int kNormWarps = 8;
// Parts of the tokens with sums of their own, at most: their number, and so the result, depends on the shape alone.
constexpr int64_t kWeightParts = 32;
constexpr int64_t kNormParts = 512;

// The gradient between the norm and the convolution. It is written once and read often, so it is narrow where x is; but
// float16 may not have the range.
template <typename T>
using Between = std::conditional_t<std::is_same_v<T, BFloat16>, BFloat16, float>;

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
  library.impl("depthwise_norm_backward", TORCH_BOX(&cora::depthwise_norm_backward_cuda));
}
