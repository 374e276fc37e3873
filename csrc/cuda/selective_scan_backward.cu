// cora::selective_scan_backward on CUDA devices.
#include <tuple>

#include "selective_scan.cuh"

namespace cora {
namespace {

constexpr int kPositionsOfStep = 8;  // whose states the backward scan holds in registers
constexpr int kStepsOfChunk = kChunk / kPositionsOfStep;
// Fewer blocks do not keep a large device busy.
constexpr int64_t kBlocksWanted = 512;
constexpr int64_t kMostRounds = 8;

struct DeviceGradients {
  Sequence u, delta, z;
  float* transition;  // [B, G, E, K]
  float* skip;        // [B, G, E]
  float* step_bias;   // [B, G, E]
  float* read_in;     // [spans, B, L, G, K]
  float* read_out;    // the same
};

// Sums each of eight values over the lanes of a warp; lane l returns that of value l / 4.
__device__ __forceinline__ float sum_over_lanes(float (&values)[8]) {
#pragma unroll
  for (int half = 4; half >= 1; half /= 2) {
    const bool is_upper = (threadIdx.x & (4 * half)) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float kept = is_upper ? values[half + i] : values[i];
      const float given = is_upper ? values[i] : values[half + i];
      values[i] = kept + __shfl_xor_sync(0xffffffff, given, 4 * half);
    }
  }
  float sum = values[0] + __shfl_xor_sync(0xffffffff, values[0], 2);
  sum += __shfl_xor_sync(0xffffffff, sum, 1);
  return sum;
}

// What the threads of a block share in the backward scan.
struct Tiles {
  float *deltas, *inputs, *output_grads;  // [chunk, 32]: step sizes, u, and the gradient before the gate
  float *read_in, *read_out;              // [chunk, states of all parts]
  float* checkpoints;                     // [steps of a chunk, states of a thread, threads]
  float* sums;                            // [3, positions of a step, parts, 32]

  __host__ __device__ static int floats(int parts) {
    const int weights = 2 * kChunk * parts * kStatesOfThread;
    const int checkpoints = kStepsOfChunk * kStatesOfThread * parts * kWarp;
    return 3 * kChunk * kWarp + weights + checkpoints + 3 * kPositionsOfStep * parts * kWarp;
  }
  __device__ explicit Tiles(int parts) {
    deltas = shared_memory();
    inputs = deltas + kChunk * kWarp;
    output_grads = inputs + kChunk * kWarp;
    read_in = output_grads + kChunk * kWarp;
    read_out = read_in + kChunk * parts * kStatesOfThread;
    checkpoints = read_out + kChunk * parts * kStatesOfThread;
    sums = checkpoints + kStepsOfChunk * kStatesOfThread * parts * kWarp;
  }
};

// Fills the tiles of a chunk; beyond the last position everything is 0, so that states and gradients pass through.
template <typename T>
__device__ void share_chunk(
    const DeviceScan& scan, const Channel& channel, const Sequence& y_grad, int64_t begin, const Tiles& tiles) {
  const int padded = scan.parts * kStatesOfThread;
  share_weights(scan, channel, scan.read_in, begin, kChunk, padded, tiles.read_in);
  share_weights(scan, channel, scan.read_out, begin, kChunk, padded, tiles.read_out);
  const float bias = channel.parameter(scan, scan.step_bias);
  for (int t = static_cast<int>(threadIdx.y); t < kChunk; t += scan.parts) {
    float delta = 0.0f, input = 0.0f, grad = 0.0f;
    if (channel.is_real && begin + t < scan.length) {
      delta = channel.step_size(scan, channel.read<T>(scan, scan.delta, begin + t) + bias);
      input = channel.read<T>(scan, scan.u, begin + t);
      grad = channel.read<T>(scan, y_grad, begin + t);
      if (scan.z.data != nullptr) {
        const float gate = channel.read<T>(scan, scan.z, begin + t);
        grad *= gate * sigmoid(gate);
      }
    }
    const int place = t * kWarp + static_cast<int>(threadIdx.x);
    tiles.deltas[place] = delta;
    tiles.inputs[place] = input;
    tiles.output_grads[place] = grad;
  }
}

// One step of the recurrence for the states of a thread; `factors` is what they are multiplied by.
__device__ __forceinline__ void advance(
    const DeviceScan& scan, const Tiles& tiles, int t, const float (&decay)[kStatesOfThread],
    float (&state)[kStatesOfThread], float (&factors)[kStatesOfThread]) {
  const int place = t * kWarp + static_cast<int>(threadIdx.x);
  const float delta = tiles.deltas[place];
  const float drive = delta * tiles.inputs[place];
  const float* read_in = tiles.read_in + (t * scan.parts + static_cast<int>(threadIdx.y)) * kStatesOfThread;
#pragma unroll
  for (int i = 0; i < kStatesOfThread; ++i) {
    factors[i] = decayed(i, delta * decay[i]);
    state[i] = fmaf(factors[i], state[i], drive * read_in[i]);
  }
}

// What a thread adds up over a sequence.
struct ThreadSums {
  float carry[kStatesOfThread];       // the gradient of the state after the present step, times its decay
  float transition[kStatesOfThread];  // gradients of A, D and delta_bias
  float skip, step_bias;
};

// Goes back through the positions of a step with the notation of csrc/selective_scan_kernels.h. Sums over states go to
// tiles.sums; those over channels, the gradients of B and C, to `grads`, added to what earlier rounds left.
__device__ __forceinline__ void retreat(
    const DeviceScan& scan, const Channel& channel, const Tiles& tiles, const DeviceGradients& grads, int64_t begin,
    int first, int64_t span, bool is_first_round, const float (&decay)[kStatesOfThread], ThreadSums& own) {
  const int lane = static_cast<int>(threadIdx.x), part = static_cast<int>(threadIdx.y);
  float state[kStatesOfThread];
  float states[kPositionsOfStep][kStatesOfThread], factors[kPositionsOfStep][kStatesOfThread];
#pragma unroll
  for (int i = 0; i < kStatesOfThread; ++i) {
    const int place = first / kPositionsOfStep * kStatesOfThread + i;
    state[i] = tiles.checkpoints[place * scan.parts * kWarp + thread_of_block()];
  }
#pragma unroll
  for (int t = 0; t < kPositionsOfStep; ++t) {
    advance(scan, tiles, first + t, decay, state, factors[t]);
#pragma unroll
    for (int i = 0; i < kStatesOfThread; ++i) states[t][i] = state[i];
  }
#pragma unroll
  for (int t = kPositionsOfStep - 1; t >= 0; --t) {
    const int place = (first + t) * kWarp + lane;
    const float delta = tiles.deltas[place], output_grad = tiles.output_grads[place];
    const float drive = delta * tiles.inputs[place];
    const float* read_in = tiles.read_in + ((first + t) * scan.parts + part) * kStatesOfThread;
    const float* read_out = tiles.read_out + ((first + t) * scan.parts + part) * kStatesOfThread;
    float drive_grad = 0.0f, through_decay = 0.0f, output = 0.0f;
    float weight_grads[2 * kStatesOfThread];
#pragma unroll
    for (int i = 0; i < kStatesOfThread; ++i) {
      const float after = states[t][i];
      const float grad = fmaf(output_grad, read_out[i], own.carry[i]);
      weight_grads[i] = drive * grad;
      weight_grads[kStatesOfThread + i] = output_grad * after;
      const float share = grad * (after - drive * read_in[i]);
      through_decay = fmaf(share, decay[i], through_decay);
      own.transition[i] = fmaf(share, delta, own.transition[i]);
      drive_grad = fmaf(grad, read_in[i], drive_grad);
      output = fmaf(after, read_out[i], output);
      own.carry[i] = grad * factors[t][i];
    }
    float* sums = tiles.sums + (t * scan.parts + part) * kWarp + lane;
    const int apart = kPositionsOfStep * scan.parts * kWarp;
    sums[0] = drive_grad;
    sums[apart] = through_decay * kLn2;
    sums[2 * apart] = output;
    const float sum = sum_over_lanes(weight_grads);
    const int64_t step = begin + first + t;
    const int k = part * kStatesOfThread + lane / 4 % kStatesOfThread;
    if (lane % 4 == 0 && step < scan.length && k < scan.states) {
      const int64_t row =
          ((span * scan.batch + channel.batch) * scan.length + channel.position(scan, step)) * scan.directions +
          channel.way;
      float* target = (lane < kWarp / 2 ? grads.read_in : grads.read_out) + row * scan.states + k;
      *target = is_first_round ? sum : *target + sum;
    }
  }
}

// Writes the gradients of u, delta and z for the positions of a step.
template <typename T>
__device__ __forceinline__ void write_sequence_grads(
    const DeviceScan& scan, const Channel& channel, const Tiles& tiles, const Sequence& y_grad,
    const DeviceGradients& grads, int64_t begin, int first, ThreadSums& own) {
  const int lane = static_cast<int>(threadIdx.x);
  const float skip = channel.parameter(scan, scan.skip);
  for (int t = static_cast<int>(threadIdx.y); t < kPositionsOfStep; t += scan.parts) {
    const int64_t step = begin + first + t;
    if (!channel.is_real || step >= scan.length) continue;
    float totals[3] = {0.0f, 0.0f, 0.0f};
    for (int other = 0; other < scan.parts; ++other) {
#pragma unroll
      for (int each = 0; each < 3; ++each) {
        totals[each] += tiles.sums[((each * kPositionsOfStep + t) * scan.parts + other) * kWarp + lane];
      }
    }
    const int place = (first + t) * kWarp + lane;
    const float delta = tiles.deltas[place], input = tiles.inputs[place], output_grad = tiles.output_grads[place];
    float delta_grad = fmaf(totals[0], input, totals[1]);
    // The derivative of softplus is a sigmoid, and 1 - exp(-softplus(x)) is that.
    if (scan.softplus) delta_grad *= -expm1f(-delta);
    channel.write<T>(scan, grads.u, step, fmaf(totals[0], delta, output_grad * skip));
    channel.write<T>(scan, grads.delta, step, delta_grad);
    own.skip = fmaf(output_grad, input, own.skip);
    own.step_bias += delta_grad;
    if (scan.z.data != nullptr) {
      const float gate = channel.read<T>(scan, scan.z, step);
      const float open = sigmoid(gate);
      const float slope = open * (1.0f + gate * (1.0f - open));
      const float output = fmaf(skip, input, totals[2]);
      channel.write<T>(scan, grads.z, step, channel.read<T>(scan, y_grad, step) * output * slope);
    }
  }
}

// Writes the gradients of A, D and delta_bias of a channel.
__device__ void write_parameter_grads(
    const DeviceScan& scan, const Channel& channel, const Tiles& tiles, const DeviceGradients& grads,
    const ThreadSums& own) {
  const int part = static_cast<int>(threadIdx.y);
  tiles.sums[thread_of_block()] = own.skip;
  tiles.sums[scan.parts * kWarp + thread_of_block()] = own.step_bias;
  __syncthreads();
  if (!channel.is_real) return;
  const int64_t row = (channel.batch * scan.directions + channel.way) * scan.channels + channel.index;
#pragma unroll
  for (int i = 0; i < kStatesOfThread; ++i) {
    const int k = part * kStatesOfThread + i;
    if (k < scan.states) grads.transition[row * scan.states + k] = own.transition[i];
  }
  if (part != 0) return;
  float skip = 0.0f, step_bias = 0.0f;
  for (int other = 0; other < scan.parts; ++other) {
    skip += tiles.sums[other * kWarp + static_cast<int>(threadIdx.x)];
    step_bias += tiles.sums[(scan.parts + other) * kWarp + static_cast<int>(threadIdx.x)];
  }
  grads.skip[row] = skip;
  grads.step_bias[row] = step_bias;
}

// A block takes `rounds` groups of channels one after the other, adding to the same gradients of B and C. It goes back
// chunk by chunk: from the states that the forward scan kept it recomputes those before every eighth position, and from
// these the others, in registers.
template <typename T>
__global__ void __launch_bounds__(kMostStates / kStatesOfThread * kWarp) scan_backward_kernel(
    DeviceScan scan, Sequence y_grad, const float* __restrict__ kept, DeviceGradients grads, int rounds) {
  const int64_t task = blockIdx.x;
  const int64_t spans = (scan.groups + rounds - 1) / rounds;
  const int64_t row = task / scan.directions;
  const int64_t span = row % spans;
  const Tiles tiles(scan.parts);
  for (int round = 0; round < rounds && span * rounds + round < scan.groups; ++round) {
    const Channel channel(
        scan, row / spans, static_cast<int>(task % scan.directions), static_cast<int>(span) * rounds + round);
    float decay[kStatesOfThread];
    ThreadSums own = {};
#pragma unroll
    for (int i = 0; i < kStatesOfThread; ++i) {
      decay[i] = channel.decay(scan, static_cast<int>(threadIdx.y) * kStatesOfThread + i);
    }
    for (int64_t chunk = (scan.length - 1) / kChunk; chunk >= 0; --chunk) {
      const int64_t begin = chunk * kChunk;
      __syncthreads();
      share_chunk<T>(scan, channel, y_grad, begin, tiles);
      __syncthreads();
      float state[kStatesOfThread], unused[kStatesOfThread];
#pragma unroll
      for (int i = 0; i < kStatesOfThread; ++i) {
        const int k = static_cast<int>(threadIdx.y) * kStatesOfThread + i;
        state[i] = channel.is_real && k < scan.states ? kept[channel.kept(scan, chunk) + k] : 0.0f;
      }
      for (int step = 0; step < kStepsOfChunk; ++step) {
#pragma unroll
        for (int i = 0; i < kStatesOfThread; ++i) {
          tiles.checkpoints[(step * kStatesOfThread + i) * scan.parts * kWarp + thread_of_block()] = state[i];
        }
        if (step + 1 == kStepsOfChunk) break;
        for (int t = 0; t < kPositionsOfStep; ++t)
          advance(scan, tiles, step * kPositionsOfStep + t, decay, state, unused);
      }
      for (int first = kChunk - kPositionsOfStep; first >= 0; first -= kPositionsOfStep) {
        if (begin + first >= scan.length) continue;
        retreat(scan, channel, tiles, grads, begin, first, span, round == 0, decay, own);
        __syncthreads();
        write_sequence_grads<T>(scan, channel, tiles, y_grad, grads, begin, first, own);
        __syncthreads();
      }
    }
    write_parameter_grads(scan, channel, tiles, grads, own);
  }
}

template <typename T>
void backward_all(
    const Scan& scan, const Sequence& y_grad, const float* kept, const DeviceGradients& grads, int64_t rounds,
    cudaStream_t stream) {
  const DeviceScan call(scan, kStatesOfThread);
  const int64_t spans = (call.groups + rounds - 1) / rounds;
  launch(
      "selective_scan", scan_backward_kernel<T>, scan.batch * spans * call.directions, dim3(kWarp, call.parts),
      Tiles::floats(call.parts) * sizeof(float), stream, call, y_grad, kept, grads, static_cast<int>(rounds));
}

// As on the CPU: the gradients of u, delta and z, then those of A, D and delta_bias for each sequence of the batch,
// then those of B and C for each span of channels.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> selective_scan_backward_cuda(
    const Tensor& y_grad, const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C,
    std::optional<Tensor> D, std::optional<Tensor> z, std::optional<Tensor> delta_bias, bool delta_softplus,
    std::vector<int64_t> reversed, const Tensor& states) {
  const Launcher launcher(u);
  const Scan scan = check_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, reversed);
  const Sequence output = check_sequence(y_grad, u, "selective_scan: the gradient of y");
  const int64_t rows = scan.batch * scan.directions * scan.channels * scan.chunks();
  const float* kept = check_parameter(
      states, {rows, scan.states}, u,
      "selective_scan: the states are not those that the forward scan kept; what it keeps");
  const std::vector<int64_t> shape = {scan.batch, scan.length, scan.directions, scan.channels};
  const Tensor u_grad = torch::stable::new_empty(u, shape);
  const Tensor delta_grad = torch::stable::new_empty(u, shape);
  const Tensor z_grad = z.has_value() ? torch::stable::new_empty(u, shape) : torch::stable::new_empty(u, {0});
  const Tensor A_grad = torch::stable::new_empty(A, {scan.batch, scan.directions, scan.channels, scan.states});
  const Tensor D_grad = torch::stable::new_empty(A, {scan.batch, scan.directions, scan.channels});
  const Tensor bias_grad = torch::stable::new_empty(A, {scan.batch, scan.directions, scan.channels});
  // Fewer spans need less memory for the gradients of B and C, and more of them keep the device busy.
  const int64_t groups = (scan.channels + kWarp - 1) / kWarp;
  const int64_t blocks = scan.batch * scan.directions * groups;
  const int64_t rounds = std::max<int64_t>(1, std::min(kMostRounds, blocks / kBlocksWanted));
  const std::vector<int64_t> by_span = {
      (groups + rounds - 1) / rounds, scan.batch, scan.length, scan.directions, scan.states};
  const Tensor B_grad = torch::stable::new_empty(A, by_span);
  const Tensor C_grad = torch::stable::new_empty(A, by_span);
  DeviceGradients grads;
  grads.u = sequence_of(u_grad);
  grads.delta = sequence_of(delta_grad);
  if (z.has_value()) grads.z = sequence_of(z_grad);
  grads.transition = floats_of(A_grad);
  grads.skip = floats_of(D_grad);
  grads.step_bias = floats_of(bias_grad);
  grads.read_in = floats_of(B_grad);
  grads.read_out = floats_of(C_grad);
  if (blocks == 0) return {u_grad, delta_grad, z_grad, A_grad, D_grad, bias_grad, B_grad, C_grad};
  if (u.scalar_type() == ScalarType::Float) {
    backward_all<float>(scan, output, kept, grads, rounds, launcher.stream);
  } else if (u.scalar_type() == ScalarType::Half) {
    backward_all<Half>(scan, output, kept, grads, rounds, launcher.stream);
  } else {
    backward_all<BFloat16>(scan, output, kept, grads, rounds, launcher.stream);
  }
  return {u_grad, delta_grad, z_grad, A_grad, D_grad, bias_grad, B_grad, C_grad};
}

}  // namespace
}  // namespace cora

STABLE_TORCH_LIBRARY_IMPL(cora, CUDA, library) {
  library.impl("selective_scan_backward", TORCH_BOX(&cora::selective_scan_backward_cuda));
}
