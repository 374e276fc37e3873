// cora::selective_scan_forward on CUDA devices.
#include <tuple>

#include "selective_scan.cuh"

namespace cora {
namespace {

constexpr int kForwardPositions = 8;  // loaded together
constexpr int kManyStatesOfThread = 16;
// Fewer warps do not keep a large device busy.
constexpr int64_t kWarpsWanted = 2048;

template <typename T>
__device__ void write_output(
    const DeviceScan& scan, const Channel& channel, const Sequence& y, int64_t step, float sum) {
  if (!channel.is_real) return;
  if (scan.z.data != nullptr) {
    const float gate = channel.read<T>(scan, scan.z, step);
    sum *= gate * sigmoid(gate);
  }
  channel.write<T>(scan, y, step, sum);
}

// A block is 32 channels of one direction of one sequence; directions follow each other, for what they share.
template <typename T, int kStates>
__global__ void __launch_bounds__(kMostStates / kStates * kWarp)
    scan_forward_kernel(DeviceScan scan, Sequence y, float* __restrict__ kept) {
  const int64_t task = blockIdx.x;
  const int64_t row = task / scan.directions;
  const Channel channel(
      scan, row / scan.groups, static_cast<int>(task % scan.directions), static_cast<int>(row % scan.groups));
  const int lane = static_cast<int>(threadIdx.x), part = static_cast<int>(threadIdx.y);
  const int padded = scan.parts * kStates;
  float* read_in = shared_memory();
  float* read_out = read_in + kForwardPositions * padded;
  float* sums = read_out + kForwardPositions * padded;  // [parts, positions, 32]
  float decay[kStates], state[kStates];
#pragma unroll
  for (int i = 0; i < kStates; ++i) {
    decay[i] = channel.decay(scan, part * kStates + i);
    state[i] = 0.0f;
  }
  const float bias = channel.parameter(scan, scan.step_bias);
  const float skip = part == 0 ? channel.parameter(scan, scan.skip) : 0.0f;
  for (int64_t first = 0; first < scan.length; first += kForwardPositions) {
    if (kept != nullptr && first % kChunk == 0 && channel.is_real) {
      float* target = kept + channel.kept(scan, first / kChunk) + part * kStates;
#pragma unroll
      for (int i = 0; i < kStates; ++i) {
        if (part * kStates + i < scan.states) target[i] = state[i];
      }
    }
    __syncthreads();
    share_weights(scan, channel, scan.read_in, first, kForwardPositions, padded, read_in);
    share_weights(scan, channel, scan.read_out, first, kForwardPositions, padded, read_out);
    float inputs[kForwardPositions], raws[kForwardPositions];
#pragma unroll
    for (int t = 0; t < kForwardPositions; ++t) {
      const bool is_there = channel.is_real && first + t < scan.length;
      inputs[t] = is_there ? channel.read<T>(scan, scan.u, first + t) : 0.0f;
      raws[t] = is_there ? channel.read<T>(scan, scan.delta, first + t) : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int t = 0; t < kForwardPositions; ++t) {
      const float delta = channel.step_size(scan, raws[t] + bias);
      const float drive = delta * inputs[t];
      float sum = skip * inputs[t];
#pragma unroll
      for (int i = 0; i < kStates; ++i) {
        const int place = t * padded + part * kStates + i;
        state[i] = fmaf(decayed(i, delta * decay[i]), state[i], drive * read_in[place]);
        sum = fmaf(state[i], read_out[place], sum);
      }
      if (scan.parts > 1) {
        sums[(part * kForwardPositions + t) * kWarp + lane] = sum;
      } else if (first + t < scan.length) {
        write_output<T>(scan, channel, y, first + t, sum);
      }
    }
    if (scan.parts == 1) continue;
    __syncthreads();
    for (int t = part; t < kForwardPositions && first + t < scan.length; t += scan.parts) {
      float sum = 0.0f;
      for (int other = 0; other < scan.parts; ++other) sum += sums[(other * kForwardPositions + t) * kWarp + lane];
      write_output<T>(scan, channel, y, first + t, sum);
    }
  }
}

template <typename T, int kStates>
void launch_forward(const Scan& scan, const Sequence& y, float* kept, cudaStream_t stream) {
  const DeviceScan call(scan, kStates);
  const int floats = kForwardPositions * call.parts * (2 * kStates + kWarp);
  launch(
      "selective_scan", scan_forward_kernel<T, kStates>, scan.batch * call.groups * call.directions,
      dim3(kWarp, call.parts), floats * sizeof(float), stream, call, y, kept);
}

template <typename T>
void forward_all(const Scan& scan, const Sequence& y, float* kept, cudaStream_t stream) {
  const int64_t warps = scan.batch * scan.directions * ((scan.channels + kWarp - 1) / kWarp);
  if (scan.states > kStatesOfThread * 2 && warps * ((scan.states + 15) / 16) >= kWarpsWanted) {
    launch_forward<T, kManyStatesOfThread>(scan, y, kept, stream);
  } else {
    launch_forward<T, kStatesOfThread>(scan, y, kept, stream);
  }
}

std::tuple<Tensor, Tensor> selective_scan_forward_cuda(
    const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C, std::optional<Tensor> D,
    std::optional<Tensor> z, std::optional<Tensor> delta_bias, bool delta_softplus, std::vector<int64_t> reversed,
    bool keep_states) {
  const Launcher launcher(u);
  const Scan scan = check_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reversed);
  const Tensor y = torch::stable::new_empty(u, {scan.batch, scan.length, scan.directions, scan.channels});
  const int64_t rows = keep_states ? scan.batch * scan.directions * scan.channels * scan.chunks() : 0;
  const Tensor states = torch::stable::new_empty(A, {rows, scan.states});
  if (scan.batch * scan.channels == 0) return {y, states};
  float* kept = keep_states ? floats_of(states) : nullptr;
  if (u.scalar_type() == ScalarType::Float) {
    forward_all<float>(scan, sequence_of(y), kept, launcher.stream);
  } else if (u.scalar_type() == ScalarType::Half) {
    forward_all<Half>(scan, sequence_of(y), kept, launcher.stream);
  } else {
    forward_all<BFloat16>(scan, sequence_of(y), kept, launcher.stream);
  }
  return {y, states};
}

}  // namespace
}  // namespace cora

STABLE_TORCH_LIBRARY_IMPL(cora, CUDA, library) {
  library.impl("selective_scan_forward", TORCH_BOX(&cora::selective_scan_forward_cuda));
}
