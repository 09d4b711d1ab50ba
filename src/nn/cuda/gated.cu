// Kernels of the gated block (../gated.rs) for maps [pixels, channels], channels innermost.
//
// Compiled when a block is first met, for its
//   WIDTH  channels, a multiple of 8
//   EPS    added to a norm's variance
//   BF16   see numbers.cu
//   GROUP  threads to a pixel in the norms, a power of two up to 32
//   BACKWARD  1 for the kernels of gradients too
//   STRIP  rows that a thread walks down in the depthwise convolutions
//   CHUNKS parts that the channels are cut into there, a divisor of WIDTH / 2: a block takes one of them, at several neighbouring
//          columns, so that the first-level cache gives all but one of the three columns that each needs
// Sums are float32. What a kernel adds up over pixels, for gradients of parameters, it leaves in rows, one for each of its
// walkers; the caller adds the rows.

// ---- norms: a pixel is the work of GROUP threads ----

#define EIGHTS (WIDTH / 8)
#define TURNS ((EIGHTS + GROUP - 1) / GROUP)

// Channels that this thread takes in its turn; at or beyond WIDTH: none.
__device__ inline int first_channel(int turn) { return (turn * GROUP + (int)threadIdx.x % GROUP) * 8; }

__device__ inline float sum_of_group(float x) {
  const unsigned members = (unsigned)((1ull << GROUP) - 1) << (threadIdx.x % 32 / GROUP * GROUP);
#pragma unroll
  for (int step = GROUP / 2; step > 0; step /= 2) x += __shfl_xor_sync(members, x, step, GROUP);
  return x;
}

// x less a vector where there is one; zeros beyond the last channel.
__device__ inline void read_pixel(const Number* x, const Number* less, float (&v)[TURNS][8]) {
#pragma unroll
  for (int k = 0; k < TURNS; k++) {
    const int c = first_channel(k);
    float part[8] = {};
    if (c < WIDTH) {
      read(x + c, part);
      if (less) {
        float l[8];
        read(less + c, l);
#pragma unroll
        for (int i = 0; i < 8; i++) part[i] -= l[i];
      }
    }
#pragma unroll
    for (int i = 0; i < 8; i++) v[k][i] = part[i];
  }
}

// Turns v into its deviations from its mean; gives one over their deviation.
__device__ inline float centred(float (&v)[TURNS][8]) {
  float sum = 0;
#pragma unroll
  for (int k = 0; k < TURNS; k++)
#pragma unroll
    for (int i = 0; i < 8; i++) sum += v[k][i];
  const float mean = sum_of_group(sum) / WIDTH;
  float squares = 0;
#pragma unroll
  for (int k = 0; k < TURNS; k++) {
    const bool inside = first_channel(k) < WIDTH;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      v[k][i] = inside ? v[k][i] - mean : 0;
      squares += v[k][i] * v[k][i];
    }
  }
  return rsqrtf(sum_of_group(squares) / WIDTH + EPS);
}

// y = norm(x - less) * weight + bias; raised = x + more_a + more_b, where it is asked for.
extern "C" __global__ void __launch_bounds__(128)
    channel_norm(const Number* __restrict__ x, const Number* __restrict__ less, const Number* __restrict__ weight,
                 const Number* __restrict__ bias, Number* __restrict__ y, const Number* __restrict__ more_a,
                 const Number* __restrict__ more_b, Number* __restrict__ raised, long long pixels) {
  const long long groups = (long long)gridDim.x * blockDim.x / GROUP;
  float w[TURNS][8], b[TURNS][8];
  read_pixel(weight, nullptr, w);
  read_pixel(bias, nullptr, b);
  for (long long p = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / GROUP; p < pixels; p += groups) {
    float v[TURNS][8];
    read_pixel(x + p * WIDTH, less, v);
    if (raised) {
#pragma unroll
      for (int k = 0; k < TURNS; k++) {
        const int c = first_channel(k);
        if (c >= WIDTH) continue;
        float one[8], two[8], r[8];
        read(more_a + c, one);
        read(more_b + c, two);
#pragma unroll
        for (int i = 0; i < 8; i++) r[i] = v[k][i] + (one[i] + two[i]);
        write(raised + p * WIDTH + c, r);
      }
    }
    const float scale = centred(v);
#pragma unroll
    for (int k = 0; k < TURNS; k++) {
      const int c = first_channel(k);
      if (c >= WIDTH) continue;
      float r[8];
#pragma unroll
      for (int i = 0; i < 8; i++) r[i] = v[k][i] * scale * w[k][i] + b[k][i];
      write(y + p * WIDTH + c, r);
    }
  }
}

#if BACKWARD
// dx = past + the norm's gradient by x, of dy by y. sums: a row of [3, WIDTH] a group, dy * normalised, dy, past.
extern "C" __global__ void __launch_bounds__(128)
    channel_norm_backward(const Number* __restrict__ x, const Number* __restrict__ less, const Number* __restrict__ weight, const Number* __restrict__ dy, const Number* __restrict__ past, Number* __restrict__ dx,
                  float* __restrict__ sums, long long pixels) {
  const long long groups = (long long)gridDim.x * blockDim.x / GROUP;
  const long long group = ((long long)blockIdx.x * blockDim.x + threadIdx.x) / GROUP;
  float of_weight[TURNS][8] = {}, of_bias[TURNS][8] = {}, of_past[TURNS][8] = {};
  for (long long p = group; p < pixels; p += groups) {
    float v[TURNS][8], d[TURNS][8];
    read_pixel(x + p * WIDTH, less, v);
    const float scale = centred(v);
    read_pixel(dy + p * WIDTH, nullptr, d);
    float mean = 0, along = 0;
#pragma unroll
    for (int k = 0; k < TURNS; k++) {
      const int c = first_channel(k);
      if (c >= WIDTH) continue;
      float w[8];
      read(weight + c, w);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        v[k][i] *= scale;
        of_weight[k][i] += d[k][i] * v[k][i];
        of_bias[k][i] += d[k][i];
        d[k][i] *= w[i];
        mean += d[k][i];
        along += d[k][i] * v[k][i];
      }
    }
    mean = sum_of_group(mean) / WIDTH;
    along = sum_of_group(along) / WIDTH;
#pragma unroll
    for (int k = 0; k < TURNS; k++) {
      const int c = first_channel(k);
      if (c >= WIDTH) continue;
      float r[8];
      read(past + p * WIDTH + c, r);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        of_past[k][i] += r[i];
        r[i] += scale * (d[k][i] - mean - v[k][i] * along);
      }
      write(dx + p * WIDTH + c, r);
    }
  }
  float* row = sums + group * 3 * WIDTH;
#pragma unroll
  for (int k = 0; k < TURNS; k++) {
    const int c = first_channel(k);
    if (c >= WIDTH) continue;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      row[c + i] = of_weight[k][i];
      row[WIDTH + c + i] = of_bias[k][i];
      row[2 * WIDTH + c + i] = of_past[k][i];
    }
  }
}

#endif

// ---- depthwise convolutions of 2 * WIDTH channels: a thread walks down a strip with two channels of each half ----

#define PAIRS (WIDTH / 2 / CHUNKS)

// The four channels of a thread: two of the first half, two of the second.
struct Channels {
  int first, second;
  __device__ Channels()
      : first(((int)blockIdx.x % CHUNKS * PAIRS + (int)threadIdx.x % PAIRS) * 2), second(WIDTH + first) {}
  __device__ int at(int i) const { return (i < 2 ? first : second) + i % 2; }
};

// Strips that are walked at a time, and which of them is this thread's.
__device__ inline long long walkers() { return (long long)(gridDim.x / CHUNKS) * (blockDim.x / PAIRS); }
__device__ inline long long walker() {
  return (long long)(blockIdx.x / CHUNKS) * (blockDim.x / PAIRS) + threadIdx.x / PAIRS;
}

// A strip is a column of STRIP rows; neighbours follow each other.
struct Strip {
  const Number* image;
  int x, top, bottom, height, width;
  long long first_pixel;
  __device__ Strip(long long index, const Number* maps, Size size) : height(size.height), width(size.width) {
    x = index % size.width;
    index /= size.width;
    const int strips = (size.height + STRIP - 1) / STRIP;
    top = index % strips * STRIP;
    bottom = min(top + STRIP, size.height);
    first_pixel = index / strips * ((long long)size.height * size.width);
    image = maps + first_pixel * (2 * WIDTH);
  }
  __device__ long long pixel(int y) const { return first_pixel + (long long)y * width + x; }
};

__device__ inline long long strips(Size size) {
  return (long long)size.batch * size.width * ((size.height + STRIP - 1) / STRIP);
}

// 3x3 neighbours of a pixel: [row][column][channel of the thread].
struct Window {
  float at[3][3][4];
  __device__ void read_row(int row, const Strip& strip, Channels c, int y) {
#pragma unroll
    for (int column = 0; column < 3; column++) {
      float a[2] = {}, b[2] = {};
      const int x = strip.x + column - 1;
      if (0 <= y && y < strip.height && 0 <= x && x < strip.width) {
        const Number* pixel = strip.image + ((long long)y * strip.width + x) * (2 * WIDTH);
        read(pixel + c.first, a);
        read(pixel + c.second, b);
      }
      at[row][column][0] = a[0];
      at[row][column][1] = a[1];
      at[row][column][2] = b[0];
      at[row][column][3] = b[1];
    }
  }
  __device__ void start(const Strip& strip, Channels c) {
    read_row(0, strip, c, strip.top - 1);
    read_row(1, strip, c, strip.top);
  }
  __device__ void advance() {
#pragma unroll
    for (int i = 0; i < 12; i++) {
      at[0][i / 4][i % 4] = at[1][i / 4][i % 4];
      at[1][i / 4][i % 4] = at[2][i / 4][i % 4];
    }
  }
};

// Weights [2 * WIDTH, 3, 3] of a thread's channels.
struct Taps {
  float at[3][3][4];
  __device__ Taps(const Number* weight, Channels c, bool flipped) {
#pragma unroll
    for (int tap = 0; tap < 9; tap++) {
      const int from = flipped ? 8 - tap : tap;
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int channel = c.at(i);
        at[tap / 3][tap % 3][i] = widened(weight[channel * 9 + from]);
      }
    }
  }
  __device__ void convolve(const Window& window, float (&sum)[4]) const {
#pragma unroll
    for (int tap = 0; tap < 9; tap++)
#pragma unroll
      for (int i = 0; i < 4; i++) sum[i] += at[tap / 3][tap % 3][i] * window.at[tap / 3][tap % 3][i];
  }
};

// Calls each(window, pixel) for every pixel of the thread's strips of maps [pixels, 2 * WIDTH].
template <typename Each>
__device__ inline void walk(const Number* maps, Size size, Channels c, Each each) {
  const long long count = strips(size);
  for (long long s = walker(); s < count; s += walkers()) {
    const Strip strip(s, maps, size);
    Window window;
    window.start(strip, c);
    for (int y = strip.top; y < strip.bottom; y++) {
      window.read_row(2, strip, c, y + 1);
      each(window, strip.pixel(y));
      window.advance();
    }
  }
}

__device__ inline void read_vector(const Number* vector, Channels c, float (&v)[4]) {
#pragma unroll
  for (int i = 0; i < 4; i++) v[i] = widened(vector[c.at(i)]);
}

// The thread's channels of a pixel of [pixels, 2 * WIDTH].
__device__ inline void write_pixel(Number* maps, long long pixel, Channels c, const float (&v)[4]) {
  const float first[2] = {v[0], v[1]}, second[2] = {v[2], v[3]};
  write(maps + pixel * (2 * WIDTH) + c.first, first);
  write(maps + pixel * (2 * WIDTH) + c.second, second);
}

// g = a * b, where [a, b] = depthwise(h) + bias.
extern "C" __global__ void __launch_bounds__(256, 2)
    gate_depthwise(const Number* __restrict__ h, const Number* __restrict__ weight, const Number* __restrict__ bias,
                   Number* __restrict__ g, Size size) {
  const Channels c;
  const Taps taps(weight, c, false);
  float constant[4];
  read_vector(bias, c, constant);
  walk(h, size, c, [&](const Window& window, long long pixel) {
    float v[4] = {constant[0], constant[1], constant[2], constant[3]};
    taps.convolve(window, v);
    const float gated[2] = {v[0] * v[2], v[1] * v[3]};
    write(g + pixel * WIDTH + c.first, gated);
  });
}

#if BACKWARD
// d = gradient of [a, b] from dg, that of g. sums: a row of [2 * WIDTH, 10] a walker, of the weights' nine taps and the bias.
extern "C" __global__ void __launch_bounds__(256, 2)
    gate_depthwise_backward(const Number* __restrict__ h, const Number* __restrict__ weight, const Number* __restrict__ bias,
                            const Number* __restrict__ dg, Number* __restrict__ d, float* __restrict__ sums, Size size) {
  const Channels c;
  const Taps taps(weight, c, false);
  float constant[4], of_taps[3][3][4] = {}, of_bias[4] = {};
  read_vector(bias, c, constant);
  walk(h, size, c, [&](const Window& window, long long pixel) {
    float v[4] = {constant[0], constant[1], constant[2], constant[3]}, outer[2];
    taps.convolve(window, v);
    read(dg + pixel * WIDTH + c.first, outer);
    const float of[4] = {outer[0] * v[2], outer[1] * v[3], outer[0] * v[0], outer[1] * v[1]};
    write_pixel(d, pixel, c, of);
#pragma unroll
    for (int i = 0; i < 4; i++) of_bias[i] += of[i];
#pragma unroll
    for (int tap = 0; tap < 9; tap++)
#pragma unroll
      for (int i = 0; i < 4; i++) of_taps[tap / 3][tap % 3][i] += of[i] * window.at[tap / 3][tap % 3][i];
  });
  float* row = sums + walker() * (20 * WIDTH);
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int channel = c.at(i);
#pragma unroll
    for (int tap = 0; tap < 9; tap++) row[channel * 10 + tap] = of_taps[tap / 3][tap % 3][i];
    row[channel * 10 + 9] = of_bias[i];
  }
}

// dh = gradient of h from d, that of depthwise(h). sums: a row of [2 * WIDTH] a walker, of dh.
extern "C" __global__ void __launch_bounds__(256, 2)
    depthwise_backward(const Number* __restrict__ d, const Number* __restrict__ weight, Number* __restrict__ dh,
                       float* __restrict__ sums, Size size) {
  const Channels c;
  const Taps taps(weight, c, true);
  float total[4] = {};
  walk(d, size, c, [&](const Window& window, long long pixel) {
    float v[4] = {};
    taps.convolve(window, v);
    write_pixel(dh, pixel, c, v);
#pragma unroll
    for (int i = 0; i < 4; i++) total[i] += v[i];
  });
  float* row = sums + walker() * (2 * WIDTH);
#pragma unroll
  for (int i = 0; i < 4; i++) row[c.at(i)] = total[i];
}
#endif

// ---- gates: a thread takes eight channels of one pixel after another ----

// g = a * b, where [a, b] = p.
extern "C" __global__ void __launch_bounds__(512)
    gate(const Number* __restrict__ p, Number* __restrict__ g, long long pixels) {
  const long long step = (long long)gridDim.x * (blockDim.x / EIGHTS);
  const int c = (int)threadIdx.x % EIGHTS * 8;
  for (long long i = (long long)blockIdx.x * (blockDim.x / EIGHTS) + threadIdx.x / EIGHTS; i < pixels; i += step) {
    float a[8], b[8];
    read(p + i * (2 * WIDTH) + c, a);
    read(p + i * (2 * WIDTH) + WIDTH + c, b);
#pragma unroll
    for (int j = 0; j < 8; j++) a[j] *= b[j];
    write(g + i * WIDTH + c, a);
  }
}

#if BACKWARD
// dp = gradient of p from dg, that of g. sums: a row of [2 * WIDTH] for each of what takes a pixel at a time, of dp.
extern "C" __global__ void __launch_bounds__(512)
    gate_backward(const Number* __restrict__ p, const Number* __restrict__ dg, Number* __restrict__ dp,
                  float* __restrict__ sums, long long pixels) {
  const long long step = (long long)gridDim.x * (blockDim.x / EIGHTS);
  const long long first = (long long)blockIdx.x * (blockDim.x / EIGHTS) + threadIdx.x / EIGHTS;
  const int c = (int)threadIdx.x % EIGHTS * 8;
  float of_a[8] = {}, of_b[8] = {};
  for (long long i = first; i < pixels; i += step) {
    float a[8], b[8], d[8];
    read(p + i * (2 * WIDTH) + c, a);
    read(p + i * (2 * WIDTH) + WIDTH + c, b);
    read(dg + i * WIDTH + c, d);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      const float da = d[j] * b[j], db = d[j] * a[j];
      a[j] = da;
      b[j] = db;
      of_a[j] += da;
      of_b[j] += db;
    }
    write(dp + i * (2 * WIDTH) + c, a);
    write(dp + i * (2 * WIDTH) + WIDTH + c, b);
  }
  float* row = sums + first * (2 * WIDTH);
#pragma unroll
  for (int j = 0; j < 8; j++) {
    row[c + j] = of_a[j];
    row[WIDTH + c + j] = of_b[j];
  }
}
#endif
