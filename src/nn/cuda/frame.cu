// Frames of interleaved samples to tiles and back, each in one pass.
//
// Compiled for
//   SAMPLE    type of a sample
//   CHANNELS  samples of a pixel: R, G and B, and perhaps one that stays as it is
//   FULL      the largest sample
// A block takes every so many rows of what is written.

// A place, from 0 on, in a row of `length` pixels that goes on beyond its end as its own mirror image.
__device__ inline int reflected(int at, int length) {
  if (length == 1) return 0;
  const int last = length - 1, phase = at % (2 * last);
  return phase <= last ? phase : 2 * last - phase;
}

__device__ inline float value(SAMPLE sample) { return sample * (2.0f / FULL) - 1; }

// Tiles [batch, height, width, 3] in [-1, 1], whose left and upper edges are origins [tiles, 2] from `first` on; beyond the frame it is
// reflected.
extern "C" __global__ void tiles_of_frame(const SAMPLE* __restrict__ samples, const int* __restrict__ origins,
                                          float* __restrict__ tiles, long long first, Size frame, Size tile) {
  for (int line = blockIdx.x; line < tile.batch * tile.height; line += gridDim.x) {
    const int* origin = origins + 2 * (first + line / tile.height);
    const long long y = reflected(origin[1] + line % tile.height, frame.height);
    const SAMPLE* row = samples + y * frame.width * CHANNELS;
    float* to = tiles + (long long)line * tile.width * 3;
    for (int column = threadIdx.x; column < tile.width; column += blockDim.x) {
      const SAMPLE* from = row + (long long)reflected(origin[0] + column, frame.width) * CHANNELS;
#pragma unroll
      for (int i = 0; i < 3; i++) to[3 * column + i] = value(from[i]);
    }
  }
}

// The frame that tiles [rows * across, height, width, 3] make, each with its weights [rows, height] and [across, width]; where a tile is
// not finite, and by what `strength` lacks of one, the samples as they are.
extern "C" __global__ void frame_of_tiles(const SAMPLE* __restrict__ samples, const float* __restrict__ tiles,
                                          const bool* __restrict__ finite, const int* __restrict__ lefts,
                                          const int* __restrict__ tops, const float* __restrict__ column_weights,
                                          const float* __restrict__ row_weights, SAMPLE* __restrict__ to,
                                          long long across, Size frame, Size tile, float strength) {
  const int rows = tile.batch / across;
  const auto pixel = [&](int x, int y) {
    const long long p = (long long)y * frame.width + x;
    const SAMPLE* from = samples + p * CHANNELS;
    const float own[3] = {value(from[0]), value(from[1]), value(from[2])};
    float sum[3] = {};
    for (int r = 0; r < rows; r++) {
      const int row = y - tops[r];
      if (row < 0 || row >= tile.height) continue;
      for (int c = 0; c < across; c++) {
        const int column = x - lefts[c];
        if (column < 0 || column >= tile.width) continue;
        const float weight = row_weights[r * tile.height + row] * column_weights[c * tile.width + column];
        const long long which = r * across + c;
        const float* made = tiles + ((which * tile.height + row) * tile.width + column) * 3;
        const bool is_finite = finite[which];
#pragma unroll
        for (int i = 0; i < 3; i++) sum[i] += weight * (is_finite ? made[i] : own[i]);
      }
    }
    SAMPLE* its = to + p * CHANNELS;
#pragma unroll
    for (int i = 0; i < 3; i++) {
      const float mixed = strength < 1 ? own[i] + strength * (sum[i] - own[i]) : sum[i];
      const float level = rintf((mixed + 1) * (0.5f * FULL));
      its[i] = (SAMPLE)fminf(fmaxf(level, 0), FULL);
    }
    if (CHANNELS == 4) its[CHANNELS - 1] = from[CHANNELS - 1];
  };
  for (int y = blockIdx.x; y < frame.height; y += gridDim.x)
    for (int x = threadIdx.x; x < frame.width; x += blockDim.x) pixel(x, y);
}
