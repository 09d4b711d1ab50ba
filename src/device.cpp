// Settings of libtorch's that tch does not reach.

#include <ATen/Context.h>

// Convolutions of float32 on a GPU are computed in TF32 by default, with 10 bits of mantissa.
extern "C" void osdd_exact_float32() { at::globalContext().setAllowTF32CuDNN(false); }
