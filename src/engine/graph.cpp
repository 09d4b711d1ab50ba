// Libtorch's CUDA graphs, found when they are asked for: they are in the half of libtorch that is loaded at run time, and their
// header needs CUDA's.

#include <dlfcn.h>

#include <cstdint>
#include <cstring>
#include <exception>
#include <new>
#include <utility>

namespace {

using Pool = std::pair<unsigned long long, unsigned long long>;

// Work of other threads may go on meanwhile: only what this one does is recorded, and refused where it cannot be.
constexpr int kThreadLocal = 1;

// at::cuda::CUDAGraph of torch 2.11 has 104 bytes; others may have more.
struct alignas(64) Graph {
  unsigned char bytes[1024];
};

// Its functions, as the C++ ABI has them: the object first.
struct Functions {
  void (*construct)(Graph*, bool keep);
  void (*destroy)(Graph*);
  void (*begin)(Graph*, Pool, int mode);
  void (*end)(Graph*);
  void (*replay)(Graph*);
};

template <typename Function>
bool find(Function& function, const char* symbol) {
  function = reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, symbol));
  return function != nullptr;
}

// Null where libtorch has none, or others than these.
const Functions* functions() {
  static Functions found;
  static const bool complete =
      find(found.construct, "_ZN2at4cuda9CUDAGraphC1Eb") && find(found.destroy, "_ZN2at4cuda9CUDAGraphD1Ev") &&
      find(found.begin, "_ZN2at4cuda9CUDAGraph13capture_beginESt4pairIyyE21cudaStreamCaptureMode") &&
      find(found.end, "_ZN2at4cuda9CUDAGraph11capture_endEv") &&
      find(found.replay, "_ZN2at4cuda9CUDAGraph6replayEv");
  return complete ? &found : nullptr;
}

template <typename Work>
bool guarded(char* message, size_t capacity, Work work) {
  try {
    work();
    return true;
  } catch (const std::exception& error) {
    std::strncpy(message, error.what(), capacity - 1);
    return false;
  }
}

}  // namespace

// Null where there are none.
extern "C" void* osdd_graph_new() {
  if (functions() == nullptr) {
    return nullptr;
  }
  auto* graph = new (std::nothrow) Graph;
  char ignored[2] = {};
  if (graph != nullptr && !guarded(ignored, sizeof ignored, [&] { functions()->construct(graph, false); })) {
    delete graph;
    return nullptr;
  }
  return graph;
}

extern "C" void osdd_graph_free(void* pointer) {
  auto* graph = static_cast<Graph*>(pointer);
  functions()->destroy(graph);
  delete graph;
}

// From now on this thread's work on its current stream, which must not be the default one, is recorded and not done; its tensors come
// from a pool of the graph's own. False with a message where that fails.
extern "C" bool osdd_graph_begin(void* graph, char* message, size_t capacity) {
  return guarded(message, capacity,
                 [&] { functions()->begin(static_cast<Graph*>(graph), Pool{0, 0}, kThreadLocal); });
}

extern "C" bool osdd_graph_end(void* graph, char* message, size_t capacity) {
  return guarded(message, capacity, [&] { functions()->end(static_cast<Graph*>(graph)); });
}

// Puts the recorded work into the current stream.
extern "C" bool osdd_graph_replay(void* graph, char* message, size_t capacity) {
  return guarded(message, capacity, [&] { functions()->replay(static_cast<Graph*>(graph)); });
}
