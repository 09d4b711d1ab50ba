// Group normalisation and SiLU of maps [batch, pixels, WIDTH], channels innermost.
//
// Compiled for
//   WIDTH     channels, a multiple of 8
//   OF_GROUP  channels of a group
//   EPS       added to a group's variance
//   BF16      see numbers.cu
// An image is the work of `slices` blocks. A thread takes eight neighbouring channels of every so many pixels.

#define EIGHTHS (WIDTH / 8)

// The sum of each channel and that of its squares over the pixels of each thread: rows of [2, WIDTH], for the caller to add.
extern "C" __global__ void channel_sums(const Number* __restrict__ x, float* __restrict__ rows, long long pixels,
                                        long long slices) {
  const int channel = threadIdx.x % EIGHTHS * 8, walker = threadIdx.x / EIGHTHS, walkers = blockDim.x / EIGHTHS;
  const long long image = blockIdx.x / slices, slice = blockIdx.x % slices;
  const Number* from = x + image * pixels * WIDTH + channel;
  float sum[8] = {}, squares[8] = {};
  for (long long p = slice * walkers + walker; p < pixels; p += slices * walkers) {
    float v[8];
    read(from + p * WIDTH, v);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      sum[i] += v[i];
      squares[i] += v[i] * v[i];
    }
  }
  float* row = rows + ((long long)blockIdx.x * walkers + walker) * 2 * WIDTH + channel;
#pragma unroll
  for (int i = 0; i < 8; i++) {
    row[i] = sum[i];
    row[WIDTH + i] = squares[i];
  }
}

// From the sums of an image, [2, WIDTH], what its channels are multiplied by and what is added then, [2, WIDTH]. A block for each.
extern "C" __global__ void group_scales(const float* __restrict__ sums, const Number* __restrict__ weight,
                                        const Number* __restrict__ bias, float* __restrict__ scales, long long pixels) {
  const float* from = sums + (long long)blockIdx.x * 2 * WIDTH;
  float* to = scales + (long long)blockIdx.x * 2 * WIDTH;
  for (int channel = threadIdx.x; channel < WIDTH; channel += blockDim.x) {
    const int first = channel / OF_GROUP * OF_GROUP;
    float sum = 0, squares = 0;
    for (int i = first; i < first + OF_GROUP; i++) {
      sum += from[i];
      squares += from[WIDTH + i];
    }
    const float count = (float)pixels * OF_GROUP, mean = sum / count;
    const float variance = squares / count - mean * mean;
    const float scale = rsqrtf((variance > 0 ? variance : 0) + EPS) * widened(weight[channel]);
    to[channel] = scale;
    to[WIDTH + channel] = widened(bias[channel]) - mean * scale;
  }
}

template <bool silu>
__device__ inline void scaled(const Number* x, const float* scales, Number* y, long long pixels, long long slices) {
  const int channel = threadIdx.x % EIGHTHS * 8, walker = threadIdx.x / EIGHTHS, walkers = blockDim.x / EIGHTHS;
  const long long image = blockIdx.x / slices, slice = blockIdx.x % slices;
  const float* its = scales + image * 2 * WIDTH + channel;
  float scale[8], shift[8];
#pragma unroll
  for (int i = 0; i < 8; i++) {
    scale[i] = its[i];
    shift[i] = its[WIDTH + i];
  }
  const long long start = image * pixels * WIDTH + channel;
  for (long long p = slice * walkers + walker; p < pixels; p += slices * walkers) {
    float v[8];
    read(x + start + p * WIDTH, v);
#pragma unroll
    for (int i = 0; i < 8; i++) {
      v[i] = v[i] * scale[i] + shift[i];
      if (silu) v[i] /= 1 + expf(-v[i]);
    }
    write(y + start + p * WIDTH, v);
  }
}

extern "C" __global__ void scale_shift(const Number* __restrict__ x, const float* __restrict__ scales,
                                       Number* __restrict__ y, long long pixels, long long slices) {
  scaled<false>(x, scales, y, pixels, slices);
}

extern "C" __global__ void scale_shift_silu(const Number* __restrict__ x, const float* __restrict__ scales,
                                            Number* __restrict__ y, long long pixels, long long slices) {
  scaled<true>(x, scales, y, pixels, slices);
}
