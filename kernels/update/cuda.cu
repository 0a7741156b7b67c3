// Updates, one pass over memory. Every product, sum and quotient is rounded by itself, as on the CPU: the bits do not
// depend on whether numbers come one by one or in packs. Denormal numbers count as zero, though.
#include "device.cuh"
#include "elementwise.cuh"

// T: of gradients, float, or bfloat16 as they came from other ranks.

constexpr int THREADS = 256;

// A float whose operations the compiler must not fuse.
struct Exact {
    float is;
    __device__ __forceinline__ Exact(float x) : is(x) {}
};
__device__ __forceinline__ Exact operator+(Exact x, Exact y) { return __fadd_rn(x.is, y.is); }
__device__ __forceinline__ Exact operator-(Exact x, Exact y) { return __fsub_rn(x.is, y.is); }
__device__ __forceinline__ Exact operator*(Exact x, Exact y) { return __fmul_rn(x.is, y.is); }
__device__ __forceinline__ Exact operator/(Exact x, Exact y) { return __fdiv_rn(x.is, y.is); }
__device__ __forceinline__ Exact root(Exact x) { return __fsqrt_rn(x.is); }

extern "C" __global__ void __launch_bounds__(THREADS)
momentum_update(float* w, const T* g, float* v, bfloat16* rounded, int64 n, float lr, float momentum,
                float weight_decay, float scale, float old, float fresh) {
    each(n, [=](int64, float& w, float g, float& v, float& rounded) {
        const Exact step = Exact(lr) * (Exact(scale) * g + Exact(weight_decay) * w);
        v = (Exact(momentum) * v + step).is;
        rounded = w = (w - (Exact(old) * v + fresh * step)).is;
    }, Both(w), In(g), Both(v), Perhaps(rounded));
}

extern "C" __global__ void __launch_bounds__(THREADS)
adamw_update(float* w, const T* g, float* m, float* v, bfloat16* rounded, int64 n, float rate, float decay,
             float beta1, float beta2, float eps, float scale, float old, float fresh) {
    each(n, [=](int64, float& w, float g, float& m, float& v, float& rounded) {
        const Exact gradient = Exact(scale) * g;
        m = (Exact(beta1) * m + (Exact(1) - beta1) * gradient).is;
        v = (Exact(beta2) * v + (Exact(1) - beta2) * (gradient * gradient)).is;
        rounded = w = (w - (rate * (Exact(old) * m + fresh * gradient) / (root(v) + eps) + Exact(decay) * w)).is;
    }, Both(w), In(g), Both(m), Both(v), Perhaps(rounded));
}

extern "C" __global__ void __launch_bounds__(THREADS)
compensate_delay(float* g, const float* w, const float* then, int64 n, float factor) {
    each(n, [=](int64, float& g, float w, float then) {
        g = (g + Exact(factor) * g * g * (Exact(w) - then)).is;
    }, Both(g), In(w), In(then));
}

extern "C" __global__ void __launch_bounds__(THREADS)
extrapolate(float* w, const float* next, bfloat16* rounded, int64 n, float factor) {
    each(n, [=](int64, float& w, float next, float& rounded) {
        rounded = w = (next + Exact(factor) * (Exact(next) - w)).is;
    }, Both(w), In(next), Perhaps(rounded));
}

constexpr int GROUP = 4;  // floats next to each other that a thread adds

// The sum of a block's doubles, on its first thread.
__device__ __forceinline__ double block_sum(double x) {
    __shared__ double warps[THREADS / 32];
#pragma unroll
    for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(WHOLE_WARP, x, d);
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
    for (int warp = 0; warp < THREADS / 32; warp++) x += warps[warp];
    return x;
}

// Each block's sum of squares to sums; which thread adds which does not depend on VEC.
extern "C" __global__ void __launch_bounds__(THREADS) sum_of_squares(const T* x, int64 n, double* sums) {
    double total = 0;
    int64 at = first_thread() * GROUP;
#pragma unroll 4
    for (; at + GROUP <= n; at += all_threads() * GROUP) {
        float group[GROUP];
#pragma unroll
        for (int i = 0; i < GROUP; i += VEC) load(reinterpret_cast<float(&)[VEC]>(group[i]), x + at + i);
#pragma unroll
        for (int i = 0; i < GROUP; i++) total += (double)group[i] * group[i];
    }
    for (; at < n; at++) total += (double)to_float(x[at]) * to_float(x[at]);  // the last few are one thread's
    total = block_sum(total);
    if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

extern "C" __global__ void __launch_bounds__(THREADS) sum_blocks(const double* sums, int count, double* total) {
    double mine = 0;
    for (int block = threadIdx.x; block < count; block += THREADS) mine += sums[block];
    mine = block_sum(mine);
    if (threadIdx.x == 0) *total = mine;
}
