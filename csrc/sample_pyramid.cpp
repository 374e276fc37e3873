// cora::sample_pyramid on the CPU; its meaning is `sample_pyramid` in cora/ops/reference/erp_to_views.py.
#include "sample_pyramid.h"

namespace cora {
namespace {

constexpr int64_t kRowsPerTask = 8;

Tensor sample_pyramid_cpu(
    std::vector<Tensor> levels, const Tensor& positions, std::vector<double> turns, int64_t samples) {
  const std::vector<Tensor> texels = contiguous_levels(levels);
  const Tensor grid = torch::stable::contiguous(positions);
  const Pyramid pyramid = check_pyramid(texels, grid, samples);
  const double level_offset = level_of_panorama(pyramid);
  const int64_t views = static_cast<int64_t>(turns.size());
  const int64_t rows = grid.size(0) / samples;
  const int64_t columns = grid.size(1) / samples;
  const Tensor pictures = torch::stable::new_empty(grid, {views, kChannels, rows, columns});
  const float* grid_data = static_cast<const float*>(grid.const_data_ptr());
  float* out = static_cast<float*>(pictures.mutable_data_ptr());
  torch::stable::parallel_for(0, views * rows, kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t line = begin; line < end; ++line) {
      const int64_t view = line / rows;
      const int64_t row = line % rows;
      float* out_row = out + (view * kChannels * rows + row) * columns;
      for (int64_t column = 0; column < columns; ++column) {
        float sum[kChannels];
        sample_pixel(pyramid, grid_data, columns, samples, row, column, turns[view], level_offset, sum);
        for (int channel = 0; channel < kChannels; ++channel) {
          out_row[channel * rows * columns + column] = sum[channel];
        }
      }
    }
  });
  return pictures;
}

}  // namespace
}  // namespace cora

STABLE_TORCH_LIBRARY_IMPL(cora, CPU, library) { library.impl("sample_pyramid", TORCH_BOX(&cora::sample_pyramid_cpu)); }
