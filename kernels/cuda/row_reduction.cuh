// Sums over the rows of an array (M,K), in two stages: of pieces of rows, then of those. The order is fixed, and the
// pieces depend on shape and alignment only (row_reduction.py): the bits are the same on every GPU. After device.cuh.
#pragma once

constexpr int ROWS_AHEAD = 4;  // rows that a thread reads before it uses the first

// Blocks as wide as some columns, `width` threads with N columns each, and as high as their threads allow.
struct Strip {
    int64 M;
    int K, width;
    int64 piece;  // rows of a block
};

// What rows.read(at) has of N numbers from there on is given to rows.add(held, at, sum), for each row of this block's
// piece; then the sums over the block's rows go to line blockIdx.y of sums. scratch: N floats a thread.
template <int N, class Rows>
__device__ __forceinline__ void sum_columns(const Strip& s, const Rows& rows, float* scratch, float* sums) {
    const int y = threadIdx.x / s.width, height = blockDim.x / s.width;
    const int column = (blockIdx.x * s.width + threadIdx.x % s.width) * N;
    const int64 end = min((blockIdx.y + 1) * s.piece, s.M);
    const bool inside = y < height && column < s.K;
    float sum[N] = {};
#pragma unroll 1
    for (int64 row = inside ? blockIdx.y * s.piece + y : end; row < end; row += ROWS_AHEAD * height) {
        decltype(rows.read(0)) held[ROWS_AHEAD];
#pragma unroll
        for (int i = 0; i < ROWS_AHEAD; i++)
            if (row + i * height < end) held[i] = rows.read((row + i * height) * s.K + column);
#pragma unroll
        for (int i = 0; i < ROWS_AHEAD; i++)
            if (row + i * height < end) rows.add(held[i], (row + i * height) * s.K + column, sum);
    }
    float* mine = scratch + threadIdx.x * N;
    store<N>(mine, sum);
    for (int left = height, half; left > 1; left = half) {  // the upper half onto the lower
        half = (left + 1) / 2;
        __syncthreads();
        if (y + half >= left) continue;
#pragma unroll
        for (int i = 0; i < N; i++) mine[i] += mine[half * s.width * N + i];
    }
    if (y > 0 || !inside) return;
#pragma unroll
    for (int i = 0; i < N; i++) sums[(int64)blockIdx.y * s.K + column + i] = mine[i];
}

// Rows as they lie in memory.
template <class Kind, int N> struct Plain {
    const Kind* from;
    __device__ __forceinline__ Pack<Kind, N> read(int64 at) const {
        return *reinterpret_cast<const Pack<Kind, N>*>(from + at);
    }
    __device__ __forceinline__ void add(const Pack<Kind, N>& held, int64, float (&sum)[N]) const {
#pragma unroll
        for (int i = 0; i < N; i++) sum[i] += to_float(held.at[i]);
    }
};

// The second stage: sums (K,) of the pieces' sums (pieces,K).
extern "C" __global__ void __launch_bounds__(1024) sum_pieces(const float* pieces, float* sums, int64 count, int K) {
    DYN_SMEM(float, scratch);
    sum_columns<1>(Strip{count, K, 32, count}, Plain<float, 1>{pieces}, scratch, sums);
}
