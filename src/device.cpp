// Settings of libtorch's that tch does not reach.

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/pin_memory.h>

// Convolutions of float32 on a GPU are computed in TF32 by default, with 10 bits of mantissa.
extern "C" void osdd_exact_float32() { at::globalContext().setAllowTF32CuDNN(false); }

// A copy in memory that the system does not move, as a new tensor; null where there is none to be had.
extern "C" void* osdd_pinned(const void* tensor) {
  try {
    return new at::Tensor(static_cast<const at::Tensor*>(tensor)->pin_memory());
  } catch (...) {
    return nullptr;
  }
}
