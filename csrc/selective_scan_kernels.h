// The selective scan of a block of channels and its gradient, on the CPU. Included once for each instruction set, as
// simd.h is; the meaning is in cora/ops/reference/selective_scan.py.
//
// A group of channels goes side by side; their K states stay in the first-level cache from one position to the next. A
// block of 128 channels shares what it reads of B and C and whole cache lines of the other inputs.

#include "sequence_simd.h"

namespace cora::CORA_SIMD {

// States that are advanced together; more need more registers than there are without AVX-512.
constexpr int64_t kUnrolled = CORA_LEVEL == 512 ? 4 : 2;

// Where the states of a block before a chunk are kept: [B, G, blocks, chunks, groups, K, lanes].
template <typename F>
F* kept_states(const Scan& scan, F* states, int64_t batch, const Block& block, int64_t chunk) {
  const int64_t row = batch * scan.directions + block.direction;
  const int64_t place = row * count_blocks(scan.channels) + block.index();
  return states + (place * scan.chunks() + chunk) * kChannelsPerBlock * scan.states;
}

inline Floats step_size(const Scan& scan, Floats raw) { return scan.softplus ? softplus(raw) : raw; }

inline const float* weights_at(const Scan& scan, const float* weights, int64_t batch, int64_t position, int64_t way) {
  return weights + ((batch * scan.length + position) * scan.directions + way) * scan.states;
}

// The exponents of the decays of a group, A log2(e), as `PowersOfTwo` takes them.
constexpr float kDecayScale = kLog2E * kSteps;

// The largest absolute value of each channel of a group over its K states, by which a step is known to be in range.
inline Floats steepest(const float* decays, int64_t states) {
  Floats largest{};
  for (int64_t k = 0; k < states; ++k) {
    const Floats size = absolute(load(decays + k * kLanes));
    largest = largest >= size ? largest : size;
  }
  return largest;
}

// Whether no exponent of a step needs to be held to its range; false for NaN.
inline bool is_in_range(Floats delta, Floats steepest) {
  return all_below(126.0f * kSteps, absolute(delta * steepest));
}

// A state, or 1, after the decay of a step.
template <bool kInRange>
inline Floats decayed(const PowersOfTwo& powers, Floats state, Floats exponent) {
  return kInRange ? powers.times_steps(state, exponent) : state * exp2(exponent * (1.0f / kSteps));
}

// Takes a group of channels one step further and returns what its states put out.
template <bool kInRange>
inline Floats advance(
    const PowersOfTwo& powers, int64_t states, Floats delta, Floats drive, const float* decays, float* state,
    const float* read_in, const float* read_out) {
  // Several sums, so that an addition need not wait for the one before.
  Floats sums[kUnrolled] = {};
  const auto one = [&](int64_t k, Floats& sum) {
    const Floats exponent = apart(delta * load(decays + k * kLanes));
    const Floats next = decayed<kInRange>(powers, load(state + k * kLanes), exponent) + apart(drive * read_in[k]);
    store(state + k * kLanes, next);
    sum += next * read_out[k];
  };
  int64_t k = 0;
  for (; k + kUnrolled <= states; k += kUnrolled) {
#pragma GCC unroll 4
    for (int64_t each = 0; each < kUnrolled; ++each) one(k + each, sums[each]);
  }
  for (; k < states; ++k) one(k, sums[0]);
  for (int64_t each = 1; each < kUnrolled; ++each) sums[0] += sums[each];
  return sums[0];
}

// Positions between the one that is worked on and the one that is fetched.
constexpr int64_t kRowsAhead = 2;

template <typename T>
void scan_forward(
    const Scan& scan, const Sequence& y, float* states, int64_t batch, const Block& block, std::vector<float>& room) {
  const PowersOfTwo powers;
  const int64_t per_group = scan.states * kLanes;
  float* decays = zeroed(room, 2 * kGroupsPerBlock * per_group + 2 * kChannelsPerBlock);
  float* running = decays + kGroupsPerBlock * per_group;
  float* biases = running + kGroupsPerBlock * per_group;
  float* skips = biases + kChannelsPerBlock;
  pack(scan.transition, scan.channels, scan.states, block, kDecayScale, decays);
  if (scan.step_bias != nullptr) pack(scan.step_bias, scan.channels, 1, block, 1.0f, biases);
  if (scan.skip != nullptr) pack(scan.skip, scan.channels, 1, block, 1.0f, skips);
  Floats limits[kGroupsPerBlock];
  for (int64_t group = 0; group < count_groups(block); ++group) {
    limits[group] = steepest(decays + group * per_group, scan.states);
  }
  const bool reversed = scan.reversed[block.direction];
  const auto place = [&](int64_t step) { return reversed ? scan.length - 1 - step : step; };
  for (int64_t step = 0; step < scan.length; ++step) {
    const int64_t position = place(step);
    if (step + kRowsAhead < scan.length) {
      const int64_t ahead = place(step + kRowsAhead);
      for (const Sequence& input : {scan.u, scan.delta, scan.z}) prefetch<T>(input, block, batch, ahead);
      prefetch<T, true>(y, block, batch, ahead);
    }
    if (states != nullptr && step % kPositionsPerChunk == 0) {
      float* kept = kept_states(scan, states, batch, block, step / kPositionsPerChunk);
      std::memcpy(kept, running, sizeof(float) * kGroupsPerBlock * per_group);
    }
    const float* read_in = weights_at(scan, scan.read_in, batch, position, block.direction);
    const float* read_out = weights_at(scan, scan.read_out, batch, position, block.direction);
    const Row<T> inputs(scan.u, block, batch, position), steps(scan.delta, block, batch, position);
    const Row<T> gates(scan.z, block, batch, position), outputs(y, block, batch, position);
    const int64_t groups = count_groups(block);
    for (int64_t each = 0; each < groups; ++each) {
      // The prefetcher follows addresses that only rise or only fall.
      const int64_t group = reversed ? groups - 1 - each : each;
      const Floats input = inputs.read(group);
      const Floats delta = step_size(scan, steps.read(group) + load(biases + group * kLanes));
      const Floats drive = delta * input;
      const float* decay = decays + group * per_group;
      float* state = running + group * per_group;
      Floats result = is_in_range(delta, limits[group])
                          ? advance<true>(powers, scan.states, delta, drive, decay, state, read_in, read_out)
                          : advance<false>(powers, scan.states, delta, drive, decay, state, read_in, read_out);
      result += load(skips + group * kLanes) * input;
      if (scan.z.data != nullptr) result *= silu(gates.read(group));
      outputs.write(group, result);
    }
  }
}

// What the backward scan of a block works on.
struct Workspace {
  float* decays;            // [groups, K, lanes]: A log2(e), as exponents are counted
  float* limits;            // [groups, lanes]: the largest one of each channel
  float* transitions;       // [groups, K, lanes]: A
  float* carries;           // [groups, K, lanes]: the gradient of the state after the chunk, times its decay
  float* transition_grads;  // [groups, K, lanes]
  float* skip_grads;        // [groups, lanes]
  float* step_bias_grads;   // [groups, lanes]
  float* state_history;     // [positions, K, lanes] of one group
  float* decay_history;     // [positions, K, lanes] of one group
  float* read_in_grads;     // [positions, K, lanes], added up over the groups
  float* read_out_grads;    // the same

  Workspace(int64_t num_states, std::vector<float>& room) {
    const int64_t per_block = kChannelsPerBlock * num_states;
    const int64_t per_chunk = kPositionsPerChunk * num_states * kLanes;
    float* next = zeroed(room, 4 * per_block + 3 * kChannelsPerBlock + 4 * per_chunk);
    for (float** part : {&decays, &transitions, &carries, &transition_grads}) *part = next, next += per_block;
    for (float** part : {&limits, &skip_grads, &step_bias_grads}) *part = next, next += kChannelsPerBlock;
    for (float** part : {&state_history, &decay_history, &read_in_grads, &read_out_grads}) {
      *part = next;
      next += per_chunk;
    }
  }
};

// The states of a group after a step, and the factors by which those before it were multiplied.
template <bool kInRange>
inline void retrace(
    const PowersOfTwo& powers, int64_t states, Floats delta, Floats drive, const float* decays, const float* read_in,
    const float* before, float* factors, float* after) {
#pragma GCC unroll 2
  for (int64_t k = 0; k < states; ++k) {
    const Floats factor = decayed<kInRange>(powers, splat(1.0f), apart(delta * load(decays + k * kLanes)));
    store(factors + k * kLanes, factor);
    store(after + k * kLanes, factor * load(before + k * kLanes) + drive * read_in[k]);
  }
}

// Recomputes the states of a group of channels at steps [begin, end) from those before.
template <typename T>
void recompute_chunk(
    const Scan& scan, const float* kept, int64_t batch, const Block& block, int64_t group, int64_t begin, int64_t end,
    const Workspace& work) {
  const bool reversed = scan.reversed[block.direction];
  const int64_t per_group = scan.states * kLanes;
  const float* decay = work.decays + group * per_group;
  const float* before = kept + group * per_group;
  const PowersOfTwo powers;
  const Floats limit = load(work.limits + group * kLanes);
  for (int64_t step = begin; step < end; ++step) {
    const int64_t position = reversed ? scan.length - 1 - step : step;
    const Floats bias = parameter(scan.step_bias, scan.channels, block, group);
    const Floats delta = step_size(scan, read<T>(scan.delta, block, batch, position, group) + bias);
    const Floats drive = delta * read<T>(scan.u, block, batch, position, group);
    const float* read_in = weights_at(scan, scan.read_in, batch, position, block.direction);
    float* after = work.state_history + (step - begin) * per_group;
    float* factors = work.decay_history + (step - begin) * per_group;
    if (is_in_range(delta, limit)) {
      retrace<true>(powers, scan.states, delta, drive, decay, read_in, before, factors, after);
    } else {
      retrace<false>(powers, scan.states, delta, drive, decay, read_in, before, factors, after);
    }
    before = after;
  }
}

// Goes back through the same steps. With s = delta u, h' the state before and g the gradient of the ungated output:
//   dh = g C + (decay dh of the step after),  dC = g h,  dB = dh s,  ds = sum dh B,
//   d(delta) = sum dh A (decay h') + u ds,  dA = dh delta (decay h'),  where decay h' = h - s B.
template <typename T>
void backward_chunk(
    const Scan& scan, const Sequence& y_grad, const ScanGradients& grads, int64_t batch, const Block& block,
    int64_t group, int64_t begin, int64_t end, const Workspace& work) {
  const bool reversed = scan.reversed[block.direction];
  const int64_t per_group = scan.states * kLanes;
  const float* transition = work.transitions + group * per_group;
  float* carry = work.carries + group * per_group;
  float* transition_grad = work.transition_grads + group * per_group;
  const Floats bias = parameter(scan.step_bias, scan.channels, block, group);
  const Floats skip = parameter(scan.skip, scan.channels, block, group);
  // Chunks are added up by themselves: a long sum in one go would round more.
  Floats skip_grad{}, bias_grad{};
  for (int64_t step = end - 1; step >= begin; --step) {
    const int64_t position = reversed ? scan.length - 1 - step : step;
    const Floats input = read<T>(scan.u, block, batch, position, group);
    const Floats raw = read<T>(scan.delta, block, batch, position, group) + bias;
    const Floats delta = step_size(scan, raw);
    const Floats drive = delta * input;
    const float* read_in = weights_at(scan, scan.read_in, batch, position, block.direction);
    const float* read_out = weights_at(scan, scan.read_out, batch, position, block.direction);
    const int64_t offset = (step - begin) * per_group;
    const float* state = work.state_history + offset;
    const float* factors = work.decay_history + offset;
    float* read_in_grad = work.read_in_grads + offset;
    float* read_out_grad = work.read_out_grads + offset;
    Floats output_grad = read<T>(y_grad, block, batch, position, group);
    if (scan.z.data != nullptr) {
      const Floats gate = read<T>(scan.z, block, batch, position, group);
      const Floats open = sigmoid(gate);
      Floats output = skip * input;
      for (int64_t k = 0; k < scan.states; ++k) output += load(state + k * kLanes) * read_out[k];
      write<T>(grads.z, block, batch, position, group, output_grad * output * open * (1.0f + gate * (1.0f - open)));
      output_grad *= gate * open;
    }
    Floats drive_grad{}, delta_grad{};
#pragma GCC unroll 2
    for (int64_t k = 0; k < scan.states; ++k) {
      const int64_t place = k * kLanes;
      const Floats after = load(state + place);
      const Floats grad = output_grad * read_out[k] + load(carry + place);
      store(read_out_grad + place, load(read_out_grad + place) + output_grad * after);
      store(read_in_grad + place, load(read_in_grad + place) + drive * grad);
      const Floats through_decay = grad * (after - drive * read_in[k]);
      delta_grad += through_decay * load(transition + place);
      store(transition_grad + place, load(transition_grad + place) + through_decay * delta);
      drive_grad += grad * read_in[k];
      store(carry + place, grad * load(factors + place));
    }
    delta_grad += drive_grad * input;
    if (scan.softplus) delta_grad *= sigmoid(raw);
    write<T>(grads.u, block, batch, position, group, drive_grad * delta + output_grad * skip);
    write<T>(grads.delta, block, batch, position, group, delta_grad);
    skip_grad += output_grad * input;
    bias_grad += delta_grad;
  }
  float* skip_grads = work.skip_grads + group * kLanes;
  float* bias_grads = work.step_bias_grads + group * kLanes;
  store(skip_grads, load(skip_grads) + skip_grad);
  store(bias_grads, load(bias_grads) + bias_grad);
}

// Writes the sums over the lanes of what a chunk gathered for B and C.
inline void write_weight_grads(
    const Scan& scan, const ScanGradients& grads, int64_t batch, const Block& block, int64_t begin, int64_t end,
    const Workspace& work) {
  for (int64_t step = begin; step < end; ++step) {
    const int64_t position = scan.reversed[block.direction] ? scan.length - 1 - step : step;
    const int64_t row = ((batch * scan.length + position) * scan.directions + block.direction) * scan.states;
    for (int64_t k = 0; k < scan.states; ++k) {
      const int64_t place = ((step - begin) * scan.states + k) * kLanes;
      grads.read_in[row + k] = sum(load(work.read_in_grads + place));
      grads.read_out[row + k] = sum(load(work.read_out_grads + place));
    }
  }
}

// Has the rows of positions [begin, end) fetched, those that are read and those that are written.
template <typename T>
[[gnu::always_inline]] inline void prefetch_rows(
    const Scan& scan, const Sequence& y_grad, const ScanGradients& grads, int64_t batch, const Block& block,
    int64_t begin, int64_t end) {
  for (int64_t step = begin; step < end; ++step) {
    const int64_t position = scan.reversed[block.direction] ? scan.length - 1 - step : step;
    for (const Sequence& input : {scan.u, scan.delta, scan.z, y_grad}) prefetch<T>(input, block, batch, position);
    for (const Sequence& output : {grads.u, grads.delta, grads.z}) prefetch<T, true>(output, block, batch, position);
  }
}

template <typename T>
void scan_backward(
    const Scan& scan, const Sequence& y_grad, const float* states, const ScanGradients& grads, int64_t first_batch,
    int64_t last_batch, const Block& block, std::vector<float>& room) {
  const Workspace work(scan.states, room);
  pack(scan.transition, scan.channels, scan.states, block, kDecayScale, work.decays);
  for (int64_t group = 0; group < count_groups(block); ++group) {
    store(work.limits + group * kLanes, steepest(work.decays + group * scan.states * kLanes, scan.states));
  }
  pack(scan.transition, scan.channels, scan.states, block, 1.0f, work.transitions);
  const int64_t per_block = kChannelsPerBlock * scan.states;
  const int64_t per_chunk = kPositionsPerChunk * scan.states * kLanes;
  // Each group has its share of the next chunk fetched: the processor can only wait for so many lines at once.
  const int64_t share = (kPositionsPerChunk + count_groups(block) - 1) / count_groups(block);
  for (int64_t batch = first_batch; batch < last_batch; ++batch) {
    std::memset(work.carries, 0, sizeof(float) * per_block);
    for (int64_t chunk = scan.chunks() - 1; chunk >= 0; --chunk) {
      const int64_t begin = chunk * kPositionsPerChunk;
      const int64_t end = std::min(begin + kPositionsPerChunk, scan.length);
      const float* kept = kept_states(scan, states, batch, block, chunk);
      std::memset(work.read_in_grads, 0, sizeof(float) * per_chunk);
      std::memset(work.read_out_grads, 0, sizeof(float) * per_chunk);
      for (int64_t group = 0; group < count_groups(block); ++group) {
        const auto before = [&](int64_t steps) { return begin - std::min(begin, steps); };
        prefetch_rows<T>(scan, y_grad, grads, batch, block, before((group + 1) * share), before(group * share));
        recompute_chunk<T>(scan, kept, batch, block, group, begin, end, work);
        backward_chunk<T>(scan, y_grad, grads, batch, block, group, begin, end, work);
      }
      write_weight_grads(scan, grads, batch, block, begin, end, work);
    }
  }
  unpack(work.skip_grads, scan.channels, 1, block, grads.skip);
  unpack(work.step_bias_grads, scan.channels, 1, block, grads.step_bias);
  unpack(work.transition_grads, scan.channels, scan.states, block, grads.transition);
}

}  // namespace cora::CORA_SIMD
