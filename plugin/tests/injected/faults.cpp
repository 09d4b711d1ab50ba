// Faults of libtorch on demand, for injected.rs. Put in front of libtorch with LD_PRELOAD, this stands for two functions that the
// engine calls once for each batch of tiles. They throw when the test says so, and else do what libtorch's do. It also stands for
// the C library's that starts a thread, which the test can have refuse.

#include <dlfcn.h>
#include <pthread.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <string>

// What this needs of libtorch's headers: that a Tensor is not copied bit by bit decides how functions return one.
namespace c10 {
class Scalar;
}

namespace at {

struct Tensor {
  Tensor(const Tensor& other);
  void* impl;
};

namespace _ops {

// Called by `pass` for the model's output, and for each tensor of a model that is loaded: tch returns what it throws.
struct isfinite {
  static Tensor call(const Tensor& self);
};

// Called by the model (`OneStep::denoise`), by an operator: tch panics where it throws.
struct sub_Tensor {
  static Tensor call(const Tensor& self, const Tensor& other, const c10::Scalar& alpha);
};

}  // namespace _ops
}  // namespace at

namespace {

struct Fault {
  std::string function;
  // Calls that go well before it, and calls that then do not.
  uint64_t after = 0;
  uint64_t times = 0;
  std::string text;
};

std::mutex mutex;
Fault fault;

void throw_if_due(const char* function) {
  std::lock_guard<std::mutex> alone(mutex);
  if (fault.function != function || fault.times == 0) {
    return;
  }
  if (fault.after > 0) {
    --fault.after;
    return;
  }
  --fault.times;
  throw std::runtime_error(fault.text);
}

// libtorch's own. Not by RTLD_NEXT, which does not see the libraries of a plugin.
template <typename Function>
Function* original(Function*, const char* symbol) {
  void* libtorch = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
  void* function = libtorch == nullptr ? nullptr : dlsym(libtorch, symbol);
  if (function == nullptr) {
    std::fprintf(stderr, "faults.cpp: no %s in libtorch_cpu.so\n", symbol);
    std::abort();
  }
  return reinterpret_cast<Function*>(function);
}

}  // namespace

// From now on `times` calls of `function` throw `text`, after the next `after` of them. What was asked for before is void.
extern "C" void osdd_inject_fault(const char* function, uint64_t after, uint64_t times, const char* text) {
  std::lock_guard<std::mutex> alone(mutex);
  fault = {function, after, times, text};
}

namespace {

std::atomic<int64_t> threads{0};
std::atomic<int64_t> most_threads{INT64_MAX};

struct Start {
  void* (*function)(void*);
  void* argument;
};

void* run(void* data) {
  Start start = *static_cast<Start*>(data);
  delete static_cast<Start*>(data);
  // Also where the thread is ended in the middle.
  struct Count {
    ~Count() { --threads; }
  } count;
  return start.function(start.argument);
}

}  // namespace

// From now on there may be `more` threads at a time beside those that there are.
extern "C" void osdd_limit_threads(int64_t more) { most_threads = threads + more; }

extern "C" int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*function)(void*),
                              void* argument) noexcept {
  static auto* const real = reinterpret_cast<decltype(&pthread_create)>(dlsym(RTLD_NEXT, "pthread_create"));
  if (++threads > most_threads) {
    --threads;
    return EAGAIN;
  }
  auto* start = new Start{function, argument};
  int result = real(thread, attributes, run, start);
  if (result != 0) {
    delete start;
    --threads;
  }
  return result;
}

at::Tensor at::_ops::isfinite::call(const Tensor& self) {
  static auto* const real = original(&call, "_ZN2at4_ops8isfinite4callERKNS_6TensorE");
  throw_if_due("isfinite");
  return real(self);
}

at::Tensor at::_ops::sub_Tensor::call(const Tensor& self, const Tensor& other, const c10::Scalar& alpha) {
  static auto* const real = original(&call, "_ZN2at4_ops10sub_Tensor4callERKNS_6TensorES4_RKN3c106ScalarE");
  throw_if_due("sub");
  return real(self, other, alpha);
}
