// Reading and writing eight channels of a sequence. Included once for each instruction set, as simd.h is.

#include "simd.h"

namespace cora::CORA_SIMD {

// The values of eight channels of a parameter [G, E]; 0 without one.
inline Float8 parameter(const float* values, int64_t channels, const Block& block, int64_t group) {
  if (values == nullptr) return Float8{};
  return load(values + block.direction * channels + block.first + group * kLanes, block.count(group));
}

// Channels beyond the last are read as 0 and not written.
template <typename T>
Float8 read(const Sequence& sequence, const Block& block, int64_t batch, int64_t position, int64_t group) {
  const T* row = sequence.at<T>(batch, position, block.direction) + block.first;
  return load(row + group * kLanes, block.count(group));
}

template <typename T>
void write(
    const Sequence& sequence, const Block& block, int64_t batch, int64_t position, int64_t group, Float8 values) {
  T* row = sequence.at<T>(batch, position, block.direction) + block.first;
  store(row + group * kLanes, values, block.count(group));
}

template <typename T>
void prefetch(const Sequence& sequence, const Block& block, int64_t batch, int64_t position) {
  if (sequence.data == nullptr) return;
  const char* row = reinterpret_cast<const char*>(sequence.at<T>(batch, position, block.direction) + block.first);
  for (int64_t byte = 0; byte < block.width * static_cast<int64_t>(sizeof(T)); byte += 64) {
    __builtin_prefetch(row + byte);
  }
}

// Takes [K or W values of a channel, ..] of the channels of a block and lays eight channels side by side:
// [groups, K, 8], times a factor; channels beyond the last are 0.
inline void pack(const float* values, int64_t channels, int64_t each, const Block& block, float factor, float* packed) {
  const float* source = values + (block.direction * channels + block.first) * each;
  std::memset(packed, 0, sizeof(float) * block.groups() * kLanes * each);
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
