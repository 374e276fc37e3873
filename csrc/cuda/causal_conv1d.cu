// cora::causal_conv1d_forward and cora::causal_conv1d_backward on CUDA devices; the meaning is in
// cora/ops/reference/causal_conv1d.py.
//
// A thread goes through a strip of positions of one channel, in the order of its direction, and keeps the inputs that
// its weights reach in registers: each one is read once. The channels of a warp lie side by side.
#include <tuple>

#include "../causal_conv1d.h"
#include "launch.cuh"

namespace cora {
namespace {

using torch::headeronly::BFloat16;
using torch::headeronly::Half;

constexpr int kThreads = 128;
constexpr int64_t kPositionsOfStrip = 128;

// A kernel's arguments hold no vectors: bit g of `reversed` is direction g's.
struct DeviceConv {
  int64_t batch, length;
  int directions, channels, blocks, strips;  // blocks of channels, of one direction
  uint32_t reversed;
  bool silu;
  Sequence x;
  const float *weight, *bias;

  explicit DeviceConv(const Conv& conv)
      : batch(conv.batch),
        length(conv.length),
        directions(static_cast<int>(conv.directions)),
        channels(static_cast<int>(conv.channels)),
        blocks((channels + kThreads - 1) / kThreads),
        strips(static_cast<int>((conv.length + kPositionsOfStrip - 1) / kPositionsOfStrip)),
        reversed(0),
        silu(conv.silu),
        x(conv.x),
        weight(conv.weight),
        bias(conv.bias) {
    STD_TORCH_CHECK(directions <= 32, "causal_conv1d: at most 32 directions");
    for (int way = 0; way < directions; ++way) reversed |= static_cast<uint32_t>(conv.reversed[way] != 0) << way;
  }
};

// A strip of one channel; the directions of the same channels follow each other.
struct Strip {
  int64_t batch, index, begin, end;
  int way, channel;
  bool is_reversed;

  __device__ explicit Strip(const DeviceConv& conv) {
    int64_t task = blockIdx.x;
    way = static_cast<int>(task % conv.directions);
    task /= conv.directions;
    channel = static_cast<int>(task % conv.blocks) * kThreads + static_cast<int>(threadIdx.x);
    task /= conv.blocks;
    index = task;
    batch = task / conv.strips;
    begin = task % conv.strips * kPositionsOfStrip;
    const int64_t last = begin + kPositionsOfStrip;
    end = last < conv.length ? last : conv.length;
    is_reversed = (conv.reversed >> way & 1) != 0;
  }

  // 0 beyond the ends of the sequence.
  template <typename T>
  __device__ float read(const DeviceConv& conv, const Sequence& sequence, int64_t step) const {
    if (step < 0 || step >= conv.length) return 0.0f;
    const int64_t position = is_reversed ? conv.length - 1 - step : step;
    return static_cast<float>(sequence.at<T>(batch, position, way)[channel]);
  }
  template <typename T>
  __device__ void write(const DeviceConv& conv, const Sequence& sequence, int64_t step, float value) const {
    const int64_t position = is_reversed ? conv.length - 1 - step : step;
    sequence.at<T>(batch, position, way)[channel] = static_cast<T>(value);
  }
};

// The weights of a channel and the inputs they meet, the latest last.
template <int kWidth>
struct Window {
  float weights[kWidth], inputs[kWidth];
  float bias;

  template <typename T>
  __device__ Window(const DeviceConv& conv, const Strip& strip, T) {
    const int64_t row = static_cast<int64_t>(strip.way) * conv.channels + strip.channel;
    bias = conv.bias == nullptr ? 0.0f : conv.bias[row];
#pragma unroll
    for (int tap = 0; tap < kWidth; ++tap) {
      weights[tap] = conv.weight[row * kWidth + tap];
      inputs[tap] = tap == 0 ? 0.0f : strip.read<T>(conv, conv.x, strip.begin - kWidth + tap);
    }
  }
  __device__ float convolve(float next) {
    float sum = bias;
#pragma unroll
    for (int tap = 0; tap < kWidth; ++tap) {
      inputs[tap] = tap + 1 < kWidth ? inputs[tap + 1] : next;
      sum = fmaf(weights[tap], inputs[tap], sum);
    }
    return sum;
  }
};

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads) conv_forward_kernel(DeviceConv conv, Sequence y) {
  const Strip strip(conv);
  if (strip.channel >= conv.channels) return;
  Window<kWidth> window(conv, strip, T());
#pragma unroll 8
  for (int64_t step = strip.begin; step < strip.end; ++step) {
    const float sum = window.convolve(strip.read<T>(conv, conv.x, step));
    strip.write<T>(conv, y, step, conv.silu ? sum * sigmoid(sum) : sum);
  }
}

template <typename T, int kWidth>
__global__ void __launch_bounds__(kThreads)
    conv_backward_kernel(DeviceConv conv, Sequence y_grad, ConvGradients grads) {
  const Strip strip(conv);
  if (strip.channel >= conv.channels) return;
  Window<kWidth> window(conv, strip, T());
  float later[kWidth] = {};  // the gradients before the activation at this step and those before it, the latest last
  float weight_grads[kWidth] = {};
  float bias_grad = 0.0f;
  // The gradient of an input is complete when those of all positions whose weights reach it are known.
#pragma unroll 4
  for (int64_t step = strip.begin; step < strip.end + kWidth - 1; ++step) {
    float grad = strip.read<T>(conv, y_grad, step);
    const float sum = window.convolve(strip.read<T>(conv, conv.x, step));
    if (conv.silu) {
      const float open = sigmoid(sum);
      grad *= open * (1.0f + sum * (1.0f - open));
    }
    const bool is_own = step < strip.end;
    bias_grad += is_own ? grad : 0.0f;
    float input_grad = 0.0f;
#pragma unroll
    for (int tap = 0; tap < kWidth; ++tap) {
      weight_grads[tap] += is_own ? grad * window.inputs[tap] : 0.0f;
      later[tap] = tap + 1 < kWidth ? later[tap + 1] : grad;
      input_grad = fmaf(window.weights[kWidth - 1 - tap], later[tap], input_grad);
    }
    const int64_t reached = step - (kWidth - 1);
    if (reached >= strip.begin) strip.write<T>(conv, grads.x, reached, input_grad);
  }
  const int64_t row = (strip.index * conv.directions + strip.way) * conv.channels + strip.channel;
#pragma unroll
  for (int tap = 0; tap < kWidth; ++tap) grads.weight[row * kWidth + tap] = weight_grads[tap];
  grads.bias[row] = bias_grad;
}

template <typename T, int kWidth>
void launch_width(const DeviceConv& conv, const Sequence& y, const ConvGradients* grads, cudaStream_t stream) {
  const int64_t blocks = conv.batch * conv.strips * conv.blocks * conv.directions;
  if (blocks == 0) return;
  if (grads == nullptr) {
    launch("causal_conv1d", conv_forward_kernel<T, kWidth>, blocks, dim3(kThreads), 0, stream, conv, y);
  } else {
    launch("causal_conv1d", conv_backward_kernel<T, kWidth>, blocks, dim3(kThreads), 0, stream, conv, y, *grads);
  }
}

template <typename T>
void launch_type(const Conv& conv, const Sequence& y, const ConvGradients* grads, cudaStream_t stream) {
  const DeviceConv call(conv);
  if (conv.width == 2) {
    launch_width<T, 2>(call, y, grads, stream);
  } else if (conv.width == 3) {
    launch_width<T, 3>(call, y, grads, stream);
  } else {
    launch_width<T, 4>(call, y, grads, stream);
  }
}

// Writes y, or with gradients reads its gradient there and writes those.
void launch_any(ScalarType type, const Conv& conv, const Sequence& y, const ConvGradients* grads, cudaStream_t stream) {
  if (type == ScalarType::Float) {
    launch_type<float>(conv, y, grads, stream);
  } else if (type == ScalarType::Half) {
    launch_type<Half>(conv, y, grads, stream);
  } else {
    launch_type<BFloat16>(conv, y, grads, stream);
  }
}

Tensor causal_conv1d_forward_cuda(
    const Tensor& x, const Tensor& weight, std::optional<Tensor> bias, bool silu, std::vector<int64_t> reversed) {
  const Launcher launcher(x);
  const Conv conv = check_conv(x, weight, bias, silu, reversed);
  const Tensor y = torch::stable::new_empty(x, {conv.batch, conv.length, conv.directions, conv.channels});
  launch_any(x.scalar_type(), conv, sequence_of(y), nullptr, launcher.stream);
  return y;
}

// The gradient of x, then those of the weight and the bias for each strip: the caller adds them up.
std::tuple<Tensor, Tensor, Tensor> causal_conv1d_backward_cuda(
    const Tensor& y_grad, const Tensor& x, const Tensor& weight, std::optional<Tensor> bias, bool silu,
    std::vector<int64_t> reversed) {
  const Launcher launcher(x);
  const Conv conv = check_conv(x, weight, bias, silu, reversed);
  const Sequence output = check_sequence(y_grad, x, "causal_conv1d: the gradient of y");
  const int64_t strips = conv.batch * ((conv.length + kPositionsOfStrip - 1) / kPositionsOfStrip);
  const Tensor x_grad = torch::stable::new_empty(x, {conv.batch, conv.length, conv.directions, conv.channels});
  const Tensor weight_grad = torch::stable::new_empty(weight, {strips, conv.directions, conv.channels, conv.width});
  const Tensor bias_grad = torch::stable::new_empty(weight, {strips, conv.directions, conv.channels});
  const ConvGradients grads = {sequence_of(x_grad), floats_of(weight_grad), floats_of(bias_grad)};
  launch_any(x.scalar_type(), conv, output, &grads, launcher.stream);
  return {x_grad, weight_grad, bias_grad};
}

}  // namespace
}  // namespace cora

STABLE_TORCH_LIBRARY_IMPL(cora, CUDA, library) {
  library.impl("causal_conv1d_forward", TORCH_BOX(&cora::causal_conv1d_forward_cuda));
  library.impl("causal_conv1d_backward", TORCH_BOX(&cora::causal_conv1d_backward_cuda));
}
