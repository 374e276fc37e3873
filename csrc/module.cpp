// The Python module cora._C: importing it registers the operations; it has no content of its own.
#include <Python.h>
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(cora, library) {
  library.def(
      "sample_views(Tensor panoramas, Tensor taps, Tensor weights, int[] shifts, float[] scale, float[] offset, "
      "Tensor(a!) out) -> ()");
  library.def(
      "selective_scan_forward(Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, "
      "Tensor? delta_bias, bool delta_softplus, int[] reversed, bool keep_states) -> (Tensor, Tensor)");
  library.def(
      "selective_scan_backward(Tensor y_grad, Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, "
      "Tensor? z, Tensor? delta_bias, bool delta_softplus, int[] reversed, Tensor states) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)");
  library.def("causal_conv1d_forward(Tensor x, Tensor weight, Tensor? bias, bool silu, int[] reversed) -> Tensor");
  library.def(
      "causal_conv1d_backward(Tensor y_grad, Tensor x, Tensor weight, Tensor? bias, bool silu, int[] reversed) -> "
      "(Tensor, Tensor, Tensor)");
  library.def(
      "depthwise_norm_forward(Tensor x, Tensor weight, Tensor? bias, Tensor norm_weight, Tensor norm_bias, float eps, "
      "bool keep) -> (Tensor, Tensor, Tensor)");
  library.def(
      "depthwise_norm_backward(Tensor y_grad, Tensor x, Tensor weight, Tensor norm_weight, Tensor normal, "
      "Tensor factors) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  library.def("halve(Tensor panoramas, int first_row, int last_row) -> Tensor");
}

PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef definition = {
      PyModuleDef_HEAD_INIT,
      "_C",
      "Compiled operations of CORA, registered as torch.ops.cora.",
      -1,
      nullptr,
      nullptr,
      nullptr,
      nullptr,
      nullptr};
  return PyModule_Create(&definition);
}
