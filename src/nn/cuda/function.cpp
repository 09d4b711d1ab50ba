// The gated block as one node of libtorch's graph of operations; what it computes, forward and backward, is in gated.rs.

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cstring>
#include <vector>

// Writes tensors that are the caller's, and gives their number; or -1 and a message.
extern "C" int osdd_gated_pass(const void* kernels, bool backward, const at::Tensor* const* inputs, size_t count,
                               at::Tensor** outputs, char* message, size_t capacity);

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Of both directions: one for each input, or the output and seven to keep.
constexpr size_t kMostOutputs = 16;

variable_list call(bool backward, int64_t kernels, at::TensorList inputs) {
  std::vector<const at::Tensor*> pointers;
  for (const at::Tensor& input : inputs) pointers.push_back(&input);
  at::Tensor* outputs[kMostOutputs];
  char message[1024];
  const int count = osdd_gated_pass(reinterpret_cast<const void*>(kernels), backward, pointers.data(), pointers.size(), outputs,
                                    message, sizeof message);
  TORCH_CHECK(count >= 0, message);
  variable_list made;
  for (int i = 0; i < count; i++) {
    made.push_back(std::move(*outputs[i]));
    delete outputs[i];
  }
  return made;
}

struct GatedBlock : torch::autograd::Function<GatedBlock> {
  static at::Tensor forward(AutogradContext* context, at::TensorList inputs, int64_t kernels) {
    variable_list made = call(false, kernels, inputs);
    variable_list saved(inputs.begin(), inputs.end());
    saved.insert(saved.end(), made.begin() + 1, made.end());
    context->save_for_backward(std::move(saved));
    context->saved_data["kernels"] = kernels;
    return made[0];
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "the gated block has no second derivative");
    variable_list given = std::move(gradients);
    for (at::Tensor& saved : context->get_saved_variables()) given.push_back(std::move(saved));
    variable_list made = call(true, context->saved_data["kernels"].toInt(), given);
    // The kernels have no gradient.
    made.emplace_back();
    return made;
  }
};

}  // namespace

extern "C" at::Tensor* osdd_gated_block(const void* kernels, const at::Tensor* const* inputs, size_t count, char* message,
                                        size_t capacity) {
  try {
    variable_list list;
    for (size_t i = 0; i < count; i++) list.push_back(*inputs[i]);
    return new at::Tensor(GatedBlock::apply(at::TensorList(list), reinterpret_cast<int64_t>(kernels)));
  } catch (const std::exception& error) {
    const size_t length = std::min(std::strlen(error.what()), capacity - 1);
    std::memcpy(message, error.what(), length);
    message[length] = 0;
    return nullptr;
  }
}
