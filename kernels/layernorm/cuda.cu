// Layer normalization of tokens x (M,C): `across` threads, a power of two, have a token in registers.
//     T: type of x, y and their gradients      VEC: numbers a thread moves at once, of which C is a multiple
#include "device.cuh"
#include "block_column_sum.cuh"

#define THREADS 512  // of a token at most
#define PACKS (VEC == 1 ? 8 : 16 / VEC)  // of a thread
#define CHANNEL(k) (((k) * across + lane) * VEC)
#define EACH(i, n) _Pragma("unroll") for (int i = 0; i < n; i++)
// Tokens of a group of threads; all threads of a block go round as often, for they meet in sums.
#define EACH_TOKEN(token) \
    const int group = threadIdx.x / across, groups = blockDim.x / across, lane = threadIdx.x % across; \
    for (int64 token = (int64)blockIdx.x * groups + group; token - group < M; token += (int64)gridDim.x * groups)

// A thread's values of a row (C,); those that do not exist are 0.
__device__ __forceinline__ void row_of(float (&into)[PACKS][VEC], const T* x, bool exists, int lane, int across,
                                       int C) {
    EACH(k, PACKS) {
        EACH(v, VEC) into[k][v] = 0;
        if (exists && CHANNEL(k) < C) load(into[k], x + CHANNEL(k));
    }
}

// Sums over the threads of a group, to all of them.
template <int count> __device__ __forceinline__ void sum_up(float (&values)[count], int across) {
    __shared__ float scratch[count][32];
    for (int d = min(across, 32) / 2; d > 0; d /= 2)
        EACH(i, count) values[i] += __shfl_xor_sync(WHOLE_WARP, values[i], d);
    if (across <= 32) return;
    const int warp = threadIdx.x / 32, warps = across / 32;
    __syncthreads();  // the last sums have been read
    if (threadIdx.x % 32 == 0) EACH(i, count) scratch[i][warp] = values[i];
    __syncthreads();
    EACH(i, count) {
        values[i] = 0;
        for (int w = warp / warps * warps; w < (warp / warps + 1) * warps; w++) values[i] += scratch[i][w];
    }
}

// y = gamma (x - mean) rstd + beta, and both statistics (M,); part = 1 / C.
extern "C" __global__ void __launch_bounds__(THREADS) layernorm(const T* x, const float* gamma, const float* beta,
                                                                float eps, T* y, float* means, float* rstds, int64 M,
                                                                int C, float part, int across) {
    EACH_TOKEN(token) {
        float row[PACKS][VEC], scale[VEC], shift[VEC], sum[1] = {}, square[1] = {};
        row_of(row, x + token * C, token < M, lane, across, C);
        EACH(k, PACKS) EACH(v, VEC) sum[0] += row[k][v];
        sum_up(sum, across);
        const float mean = sum[0] * part;
        EACH(k, PACKS) if (CHANNEL(k) < C) EACH(v, VEC) {
            row[k][v] -= mean;
            square[0] += row[k][v] * row[k][v];
        }
        sum_up(square, across);
        const float rstd = rsqrtf(square[0] * part + eps);
        EACH(k, PACKS) if (token < M && CHANNEL(k) < C) {
            load(scale, gamma + CHANNEL(k)), load(shift, beta + CHANNEL(k));
            EACH(v, VEC) row[k][v] = row[k][v] * rstd * scale[v] + shift[v];
            store(y + token * C + CHANNEL(k), row[k]);
        }
        if (token < M && lane == 0) means[token] = mean, rstds[token] = rstd;
    }
}

// dx, which may be dy, and partial (blocks,2,C), what the tokens of each block give of dgamma and dbeta.
extern "C" __global__ void __launch_bounds__(THREADS) layernorm_backward(const T* dy, const T* x, const float* means,
                                                                         const float* rstds, const float* gamma, T* dx,
                                                                         float* partial, int64 M, int C, float part,
                                                                         int across) {
    DYN_SMEM(float, scratch);  // (groups,2,C)
    float dgamma[PACKS][VEC] = {}, dbeta[PACKS][VEC] = {};
    EACH_TOKEN(token) {
        float row[PACKS][VEC], by[PACKS][VEC], scale[VEC], sums[2] = {};
        row_of(row, x + token * C, token < M, lane, across, C), row_of(by, dy + token * C, token < M, lane, across, C);
        const float mean = token < M ? means[token] : 0, rstd = token < M ? rstds[token] : 0;
        EACH(k, PACKS) if (CHANNEL(k) < C) {
            load(scale, gamma + CHANNEL(k));
            EACH(v, VEC) {
                row[k][v] = (row[k][v] - mean) * rstd;
                dgamma[k][v] += by[k][v] * row[k][v], dbeta[k][v] += by[k][v];
                by[k][v] = __fmul_rn(by[k][v], scale[v]);  // fused, it less itself would be what rounding took
                sums[0] += by[k][v], sums[1] += by[k][v] * row[k][v];
            }
        }
        sum_up(sums, across);
        const float level = sums[0] * part, slope = sums[1] * part;
        EACH(k, PACKS) if (token < M && CHANNEL(k) < C) {
            EACH(v, VEC) by[k][v] = rstd * (by[k][v] - level - row[k][v] * slope);
            store(dx + token * C + CHANNEL(k), by[k]);
        }
    }
    EACH(k, PACKS) if (CHANNEL(k) < C) {
        store(scratch + (2 * group) * C + CHANNEL(k), dgamma[k]);
        store(scratch + (2 * group + 1) * C + CHANNEL(k), dbeta[k]);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 2 * C; i += blockDim.x) {
        float total = 0;
        for (int g = 0; g < groups; g++) total += scratch[2 * g * C + i];
        partial[2 * (int64)blockIdx.x * C + i] = total;
    }
}

// dgamma, dbeta (C,), the sums of what the blocks found.
extern "C" __global__ void __launch_bounds__(1024) finish(const float* partial, int blocks, int C, float* dgamma,
                                                          float* dbeta) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    double one = 0, other = 0;
#pragma unroll 4
    for (int b = threadIdx.y; b < blocks && c < C; b += blockDim.y)
        one += partial[2 * (int64)b * C + c], other += partial[(2 * (int64)b + 1) * C + c];
    one = column_sum(one), other = column_sum(other);
    if (threadIdx.y == 0 && c < C) dgamma[c] = (float)one, dbeta[c] = (float)other;
}
