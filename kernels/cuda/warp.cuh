// The two products of attention, of a warp's rows with COLUMNS rows of shared memory (Dao 2023):
//
//     dots   c[i][j] += sum over d of a[i][d] b[j][d]     a and b from shared memory
//     mix    c[i][d] += sum over j of s[i][j] b[j][d]     s, scores or what became of them, from registers
//
// MATH says who multiplies: CUDA cores (FLOAT32) or tensor cores (TF32, BF16). A warp's rows of scores and of sums are
// spread over its threads, R rows of each in threads as many as LANES: row<R>(r) of the block, column(c).
#pragma once
#include "device.cuh"
#include "mma.cuh"

#define FLOAT32 0
#define TF32 1
#define BF16 2

constexpr int WARPS = 4, THREADS = 32 * WARPS;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr int BLOCKS = 2;  // on a multiprocessor: told so, the compiler spills nothing there
#else
constexpr int BLOCKS = 1;
#endif
constexpr int COLUMNS = D_PADDED <= 64 ? 64 : 32;
constexpr int CHUNK = 16 / sizeof(T);    // numbers
constexpr int PITCH = D_PADDED + CHUNK;  // from row to row in shared memory: those read at once lie in different banks
constexpr int LANES = MATH == FLOAT32 ? 8 : 4, STEP = 32 / LANES;  // and the distance between a thread's rows

template <int R> using Scores = float[R][COLUMNS / LANES];
template <int R> using Sums = float[R][D_PADDED / LANES];

__device__ __forceinline__ int lane() { return threadIdx.x % 32; }
template <int R> __device__ __forceinline__ int first_row() { return threadIdx.x / 32 * R * STEP; }  // of the warp
template <int R> __device__ __forceinline__ int row(int r) { return first_row<R>() + lane() / LANES + STEP * r; }

#if MATH == FLOAT32
__device__ __forceinline__ int column(int c) { return 8 * c + lane() % 8; }

template <int R> __device__ __forceinline__ void dots(Scores<R>& c, const T* a, const T* b) {
    a += row<R>(0) * PITCH, b += column(0) * PITCH;
#pragma unroll 1
    for (int d = 0; d < D_PADDED; d += CHUNK) {
        float left[R][CHUNK], right[CHUNK];
#pragma unroll
        for (int r = 0; r < R; r++) load(left[r], a + STEP * r * PITCH + d);
#pragma unroll
        for (int j = 0; j < COLUMNS / 8; j++) {
            load(right, b + 8 * j * PITCH + d);
#pragma unroll
            for (int r = 0; r < R; r++)
#pragma unroll
                for (int e = 0; e < CHUNK; e++) c[r][j] += left[r][e] * right[e];
        }
    }
}

template <int R> __device__ __forceinline__ void mix(Sums<R>& c, const Scores<R>& s, const T* b) {
    b += column(0);
#pragma unroll
    for (int j = 0; j < COLUMNS / 8; j++)
#pragma unroll 1
        for (int owner = 0; owner < 8; owner++) {
            float right[D_PADDED / 8];
#pragma unroll
            for (int d = 0; d < D_PADDED / 8; d++) right[d] = b[(8 * j + owner) * PITCH + 8 * d];
#pragma unroll
            for (int r = 0; r < R; r++) {
                const float left = __shfl_sync(WHOLE_WARP, s[r][j], owner, 8);
#pragma unroll
                for (int d = 0; d < D_PADDED / 8; d++) c[r][d] += left * right[d];
            }
        }
}
#else
__device__ __forceinline__ int column(int c) { return 8 * (c / 2) + lane() % 4 * 2 + c % 2; }

// Two columns each of a row and of the one eight below.
__device__ __forceinline__ void multiply(float* row, float* below, const unsigned (&a)[4], const unsigned (&b)[2]) {
    float d[4] = {row[0], row[1], below[0], below[1]};
#if MATH == BF16
    mma_m16n8k16_bf16(d, a, b);
#else
    mma_m16n8k8_tf32(d, a, b);
#endif
    row[0] = d[0], row[1] = d[1], below[0] = d[2], below[1] = d[3];
}

// ldmatrix carries lines of 16 bytes, whatever is in them.
template <int R> __device__ __forceinline__ void dots(Scores<R>& c, const T* a, const T* b) {
    a += (first_row<R>() + lane() % 16) * PITCH + lane() / 16 * CHUNK;
    b += (lane() % 8 + lane() / 16 * 8) * PITCH + lane() / 8 % 2 * CHUNK;
#pragma unroll
    for (int d = 0; d < D_PADDED; d += 2 * CHUNK) {
        unsigned left[R / 2][4], right[4];
#pragma unroll
        for (int m = 0; m < R / 2; m++) ldmatrix_x4(left[m], a + 16 * m * PITCH + d);
#pragma unroll
        for (int j = 0; j < COLUMNS; j += 16) {
            ldmatrix_x4(right, b + j * PITCH + d);
#pragma unroll
            for (int m = 0; m < R / 2; m++) {
                multiply(c[2 * m] + j / 4, c[2 * m + 1] + j / 4, left[m], {right[0], right[1]});
                multiply(c[2 * m] + j / 4 + 2, c[2 * m + 1] + j / 4 + 2, left[m], {right[2], right[3]});
            }
        }
    }
}

// Scores of a row and of the one eight below, as a left factor: a thread's own, if tf32's columns are taken in the
// order 0 2 4 6 1 3 5 7.
__device__ __forceinline__ void factor(unsigned (&a)[4], const float* row, const float* below) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
#if MATH == BF16
        a[2 * half] = two_bfloat16(row[2 * half], row[2 * half + 1]);
        a[2 * half + 1] = two_bfloat16(below[2 * half], below[2 * half + 1]);
#else
        a[2 * half] = to_tf32(row[half]), a[2 * half + 1] = to_tf32(below[half]);
#endif
    }
}

// Two right factors side by side, from rows and columns `b` on, tf32's rows in the order of the columns above.
__device__ __forceinline__ void factors(unsigned (&right)[4], const T* b) {
#if MATH == BF16
    ldmatrix_x4_trans(right, b + lane() % 16 * PITCH + lane() / 16 * CHUNK);
#else
#pragma unroll
    for (int i = 0; i < 4; i++)
        right[i] = __float_as_uint(b[(lane() % 4 * 2 + i % 2) * PITCH + i / 2 * 8 + lane() / 4]);
#endif
}

template <int R> __device__ __forceinline__ void mix(Sums<R>& c, const Scores<R>& s, const T* b) {
#pragma unroll
    for (int j = 0; j < COLUMNS; j += 2 * CHUNK) {
        unsigned left[R / 2][4], right[4];
#pragma unroll
        for (int m = 0; m < R / 2; m++) factor(left[m], s[2 * m] + j / 4, s[2 * m + 1] + j / 4);
#pragma unroll
        for (int d = 0; d < D_PADDED; d += 16) {
            factors(right, b + j * PITCH + d);
#pragma unroll
            for (int m = 0; m < R / 2; m++) {
                multiply(c[2 * m] + d / 4, c[2 * m + 1] + d / 4, left[m], {right[0], right[1]});
                multiply(c[2 * m] + d / 4 + 2, c[2 * m + 1] + d / 4 + 2, left[m], {right[2], right[3]});
            }
        }
    }
}
#endif
