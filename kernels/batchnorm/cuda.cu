// Batch normalization of rows x (M,C). Sums go in two stages, a thread's in float, all others in double, in order.
//     T: type of x, y, add and their gradients      VEC: numbers a thread moves at once, of which C is a multiple
//     S: type of statistics that join the running ones
// Blocks are (X,Y), grids (tiles of channels, blocks of rows): a thread has VEC channels, the same in all of its rows.
#include "device.cuh"
#include "block_column_sum.cuh"

#define THREADS 256
#define AT_ONCE 4  // rows whose loads are in flight
#define CHANNEL ((blockIdx.x * blockDim.x + threadIdx.x) * VEC)
#define ROW ((int64)blockIdx.y * blockDim.y + threadIdx.y)
#define STEP ((int64)gridDim.y * blockDim.y)
#define EACH(i, n) _Pragma("unroll") for (int i = 0; i < n; i++)

// A thread's values of a vector of channels; those that do not exist are 0.
template <class Kind> __device__ void channels(float (&into)[VEC], const Kind* from, int C) {
    EACH(v, VEC) into[v] = CHANNEL < C ? to_float(from[CHANNEL + v]) : 0.f;
}

// A thread's values of `count` rows of x, as many as there are.
template <int count>
__device__ __forceinline__ void rows_of(float (&into)[count][VEC], const T* x, int64 row, int64 M, int C) {
    EACH(u, count) if (row + u * STEP < M) load(into[u], x + (row + u * STEP) * C + CHANNEL);
}

// partial (blocks,2,C): a block's sums of both.
__device__ void put_sums(const float (&one)[VEC], const float (&other)[VEC], double* partial, int C) {
    __shared__ __align__(16) float scratch[2][THREADS * VEC];
    const int width = blockDim.x * VEC, mine = threadIdx.y * width + threadIdx.x * VEC;
    store(scratch[0] + mine, one), store(scratch[1] + mine, other);
    __syncthreads();
    for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < 2 * width; i += THREADS) {
        const int which = i / width, column = i % width, c = blockIdx.x * width + column;
        double total = 0;
        for (int y = 0; y < blockDim.y; y++) total += scratch[which][y * width + column];
        if (c < C) partial[((int64)blockIdx.y * 2 + which) * C + c] = total;
    }
}

// Sums of (x - shift)^2 and of x - shift; a block's shift is its first row: else squares of a mean would cancel.
extern "C" __global__ void __launch_bounds__(THREADS) moments(const T* x, double* partial, int64 M, int C) {
    float shift[VEC], square[VEC] = {}, one[VEC] = {}, values[AT_ONCE][VEC];
    channels(shift, x + (int64)blockIdx.y * blockDim.y * C, C);
    for (int64 row = ROW; row < M && CHANNEL < C; row += AT_ONCE * STEP) {
        rows_of(values, x, row, M, C);
        EACH(u, AT_ONCE) if (row + u * STEP < M)
            EACH(v, VEC) {
                const float off = values[u][v] - shift[v];
                square[v] += off * off, one[v] += off;
            }
    }
    put_sums(square, one, partial, C);
}

// mean, var (C,) of all M rows from the sums of `blocks` blocks, which took Y rows at a time.
extern "C" __global__ void __launch_bounds__(1024) finish_moments(const T* x, const double* partial, int blocks, int Y,
                                                                  int64 M, int C, float* mean, float* var) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    const double common = c < C ? to_float(x[c]) : 0;
    double square = 0, one = 0;
#pragma unroll 4
    for (int b = threadIdx.y; b < blocks && c < C; b += blockDim.y) {
        const int64 whole = (int64)blocks * Y, rest = M % whole - (int64)b * Y;
        const double rows = (double)(M / whole * Y + (rest < 0 ? 0 : rest < Y ? rest : Y));
        const double shift = to_float(x[(int64)b * Y * C + c]) - common, mine = partial[(2 * (int64)b + 1) * C + c];
        square += partial[2 * (int64)b * C + c] + shift * (2 * mine + rows * shift), one += mine + rows * shift;
    }
    square = column_sum(square) / M, one = column_sum(one) / M;
    if (threadIdx.y == 0 && c < C) {
        const double of_all = square - one * one;
        mean[c] = (float)(common + one), var[c] = (float)(of_all < 0 ? 0 : of_all);
    }
}

// Sums of dy (x - mean) and of dy, which becomes 0 first where y is; a null y is none.
extern "C" __global__ void __launch_bounds__(THREADS) gradients(T* dy, const T* y, const T* x, const float* mean,
                                                                double* partial, int64 M, int C) {
    float middle[VEC], product[VEC] = {}, one[VEC] = {}, by[2][VEC], from[2][VEC], made[2][VEC];
    channels(middle, mean, C);
    for (int64 row = ROW; row < M && CHANNEL < C; row += 2 * STEP) {
        rows_of(by, dy, row, M, C), rows_of(from, x, row, M, C);
        if (y) rows_of(made, y, row, M, C);
        EACH(u, 2) if (row + u * STEP < M) {
            if (y) {
                EACH(v, VEC) by[u][v] = made[u][v] > 0 ? by[u][v] : 0.f;
                store(dy + (row + u * STEP) * C + CHANNEL, by[u]);
            }
            EACH(v, VEC) product[v] += by[u][v] * (from[u][v] - middle[v]), one[v] += by[u][v];
        }
    }
    put_sums(product, one, partial, C);
}

// dgamma, dbeta (C,).
extern "C" __global__ void __launch_bounds__(1024) finish_gradients(const double* partial, int blocks, int C,
                                                                    const float* var, float eps, float* dgamma,
                                                                    float* dbeta) {
    const int c = blockIdx.x * blockDim.x + threadIdx.x;
    double product = 0, one = 0;
#pragma unroll 4
    for (int b = threadIdx.y; b < blocks && c < C; b += blockDim.y)
        product += partial[2 * (int64)b * C + c], one += partial[(2 * (int64)b + 1) * C + c];
    product = column_sum(product), one = column_sum(one);
    if (threadIdx.y == 0 && c < C)
        dgamma[c] = (float)(product * rsqrt((double)var[c] + eps)), dbeta[c] = (float)one;
}

// y = gamma (x - mean) / sqrt(var + eps) + beta + add, clipped at zero if relu; a null add is none.
extern "C" __global__ void __launch_bounds__(THREADS) normalize(const T* x, const float* mean, const float* var,
                                                                const float* gamma, const float* beta, float eps,
                                                                const T* add, int relu, T* y, int64 M, int C) {
    float middle[VEC], scale[VEC], level[VEC], factor[VEC], from[2][VEC], more[2][VEC] = {};
    channels(middle, mean, C), channels(scale, var, C), channels(factor, gamma, C), channels(level, beta, C);
    EACH(v, VEC) scale[v] = factor[v] * rsqrtf(scale[v] + eps);
    for (int64 row = ROW; row < M && CHANNEL < C; row += 2 * STEP) {
        rows_of(from, x, row, M, C);
        if (add) rows_of(more, add, row, M, C);
        EACH(u, 2) if (row + u * STEP < M) {
            EACH(v, VEC) {
                const float value = (from[u][v] - middle[v]) * scale[v] + level[v] + more[u][v];
                from[u][v] = relu && value < 0 ? 0.f : value;
            }
            store(y + (row + u * STEP) * C + CHANNEL, from[u]);
        }
    }
}

// dx = scale dy + slope (x - mean) + shift; part = 1 / rows of which dgamma, dbeta, mean and var are.
extern "C" __global__ void __launch_bounds__(THREADS) dgrad(const T* dy, const T* x, const float* mean,
                                                            const float* var, const float* gamma, const float* dgamma,
                                                            const float* dbeta, float eps, float part, T* dx, int64 M,
                                                            int C) {
    float middle[VEC], scale[VEC], slope[VEC], shift[VEC], factor[VEC], by[2][VEC], from[2][VEC];
    channels(middle, mean, C), channels(scale, var, C), channels(factor, gamma, C);
    channels(slope, dgamma, C), channels(shift, dbeta, C);
    EACH(v, VEC) {
        const float rstd = rsqrtf(scale[v] + eps);
        scale[v] = factor[v] * rstd, slope[v] *= -scale[v] * rstd * part, shift[v] *= -scale[v] * part;
    }
    for (int64 row = ROW; row < M && CHANNEL < C; row += 2 * STEP) {
        rows_of(by, dy, row, M, C), rows_of(from, x, row, M, C);
        EACH(u, 2) if (row + u * STEP < M) {
            EACH(v, VEC) by[u][v] = scale[v] * by[u][v] + (slope[v] * (from[u][v] - middle[v]) + shift[v]);
            store(dx + (row + u * STEP) * C + CHANNEL, by[u]);
        }
    }
}

// state (1 + 2C): steps, running means and variances, one step further; one block.
extern "C" __global__ void __launch_bounds__(1024) running(double* state, const S* mean, const S* var, int C,
                                                           double count, double momentum) {
    const double steps = state[0] + 1, rate = fmax(momentum, 1 / steps);
    __syncthreads();
    if (threadIdx.x == 0) state[0] = steps;
    for (int i = threadIdx.x; i < 2 * C; i += blockDim.x) {
        const double value = i < C ? (double)mean[i] : (double)var[i - C] * count / fmax(1., count - 1);
        state[1 + i] += rate * (value - state[1 + i]);
    }
}
