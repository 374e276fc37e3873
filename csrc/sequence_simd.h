// Reading and writing a group of channels of a sequence: as many as a vector has lanes. Included once for each
// instruction set, as simd.h is.

#include "simd.h"

namespace cora::CORA_SIMD {

constexpr int64_t kGroupsPerBlock = kChannelsPerBlock / kLanes;

inline int64_t count_groups(const Block& block) { return (block.width + kLanes - 1) / kLanes; }

// The channels of a block from a group on.
inline int64_t count_from(const Block& block, int64_t group) { return block.width - group * kLanes; }

// The values of a group of channels of a parameter [G, E]; 0 without one.
inline Floats parameter(const float* values, int64_t channels, const Block& block, int64_t group) {
  if (values == nullptr) return Floats{};
  return load(values + block.direction * channels + block.first + group * kLanes, count_from(block, group));
}

// The channels of a block at one position. Those beyond the last are read as 0 and not written.
template <typename T>
class Row {
 public:
  Row(const Sequence& sequence, const Block& block, int64_t batch, int64_t position)
      : first_(sequence.at<T>(batch, position, block.direction) + block.first), width_(block.width) {}

  Floats read(int64_t group) const { return load(first_ + group * kLanes, width_ - group * kLanes); }
  void write(int64_t group, Floats values) const { store(first_ + group * kLanes, values, width_ - group * kLanes); }

 private:
  T* first_;
  int64_t width_;
};

template <typename T>
Floats read(const Sequence& sequence, const Block& block, int64_t batch, int64_t position, int64_t group) {
  return Row<T>(sequence, block, batch, position).read(group);
}

template <typename T>
void write(
    const Sequence& sequence, const Block& block, int64_t batch, int64_t position, int64_t group, Floats values) {
  Row<T>(sequence, block, batch, position).write(group, values);
}

// Has the channels of a block at a position fetched.
template <typename T, bool kToWrite = false>
[[gnu::always_inline]] inline void prefetch(
    const Sequence& sequence, const Block& block, int64_t batch, int64_t position) {
  if (sequence.data == nullptr) return;
  const T* first = sequence.at<T>(batch, position, block.direction) + block.first;
  prefetch<kToWrite>(first, block.width * static_cast<int64_t>(sizeof(T)));
}

// Takes [K or W values of a channel, ..] of the channels of a block and lays the channels of a group side by side:
// [groups, K, lanes], times a factor; channels beyond the last are 0.
inline void pack(const float* values, int64_t channels, int64_t each, const Block& block, float factor, float* packed) {
  const float* source = values + (block.direction * channels + block.first) * each;
  std::memset(packed, 0, sizeof(float) * count_groups(block) * kLanes * each);
  for (int64_t channel = 0; channel < block.width; ++channel) {
    float* target = packed + channel / kLanes * each * kLanes + channel % kLanes;
    for (int64_t index = 0; index < each; ++index) target[index * kLanes] = source[channel * each + index] * factor;
  }
}

// The other way.
inline void unpack(const float* packed, int64_t channels, int64_t each, const Block& block, float* values) {
  float* target = values + (block.direction * channels + block.first) * each;
  for (int64_t channel = 0; channel < block.width; ++channel) {
    const float* source = packed + channel / kLanes * each * kLanes + channel % kLanes;
    for (int64_t index = 0; index < each; ++index) target[channel * each + index] = source[index * kLanes];
  }
}

}  // namespace cora::CORA_SIMD
