// What maps are made of, for the kernels of this folder. BF16 is 1 where maps and parameters are bfloat16, 0 for float32; whatever is
// computed is float32.

#if BF16
typedef unsigned short Number;
#else
typedef float Number;
#endif

struct Size {
  int batch, height, width;
};

__device__ inline float widened(Number n) {
#if BF16
  return __uint_as_float((unsigned)n << 16);
#else
  return n;
#endif
}

__device__ inline Number rounded(float x) {
#if BF16
  Number n;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(n) : "f"(x));
  return n;
#else
  return x;
#endif
}

// Neighbouring channels of a pixel, read and written in one piece.
template <int N>
struct alignas(N * sizeof(Number)) Piece {
  Number number[N];
};

template <int N>
__device__ inline void read(const Number* from, float (&to)[N]) {
  const Piece<N> piece = *reinterpret_cast<const Piece<N>*>(from);
#pragma unroll
  for (int i = 0; i < N; i++) to[i] = widened(piece.number[i]);
}

template <int N>
__device__ inline void write(Number* to, const float (&from)[N]) {
  Piece<N> piece;
#pragma unroll
  for (int i = 0; i < N; i++) piece.number[i] = rounded(from[i]);
  *reinterpret_cast<Piece<N>*>(to) = piece;
}
