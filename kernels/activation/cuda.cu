// Rectifiers and dropout, and the gradient by a bias on the way.
#include "device.cuh"
#include "elementwise.cuh"
#include "row_reduction.cuh"

constexpr int THREADS = 256;

extern "C" __global__ void __launch_bounds__(THREADS) relu(const T* x, T* y, int64 n) {
    each(n, [](int64, float x, float& y) { y = x <= 0 ? 0 : x; }, In(x), Out(y));
}

extern "C" __global__ void __launch_bounds__(THREADS) relu_backward(const T* dy, const T* y, T* dx, int64 n) {
    each(n, [](int64, float dy, float y, float& dx) { dx = y > 0 ? dy : 0; }, In(dy), In(y), Out(dx));
}

extern "C" __global__ void __launch_bounds__(THREADS) add(const T* x, const T* y, T* out, int64 n) {
    each(n, [](int64, float x, float y, float& out) { out = x + y; }, In(x), In(y), Out(out));
}

// Rows of dy where y > 0, to dx, and their sum.
struct Rectified {
    const T *dy, *y;
    T* dx;
    struct Held {
        Pack<T, VEC> dy, y;
    };
    __device__ __forceinline__ Held read(int64 at) const {
        return {*reinterpret_cast<const Pack<T, VEC>*>(dy + at), *reinterpret_cast<const Pack<T, VEC>*>(y + at)};
    }
    __device__ __forceinline__ void add(const Held& held, int64 at, float (&sum)[VEC]) const {
        float kept[VEC];
#pragma unroll
        for (int i = 0; i < VEC; i++) {
            kept[i] = to_float(held.y.at[i]) > 0 ? to_float(held.dy.at[i]) : 0;
            sum[i] += kept[i];
        }
        store<VEC>(dx + at, kept);
    }
};

extern "C" __global__ void __launch_bounds__(THREADS) bias_relu_backward(const T* dy, const T* y, T* dx, float* sums,
                                                                         int64 M, int K, int width, int64 piece) {
    DYN_SMEM(float, scratch);
    sum_columns<VEC>(Strip{M, K, width, piece}, Rectified{dy, y, dx}, scratch, sums);
}

// kernels/activation/cpu.py has the same: exp(-2 u), and 1 / (1 + that) is (1 + tanh u) / 2. What the fast exponential
// is off matters only where that is next to nothing.
constexpr float MOST = 80, FAR = 20, SLOPE = 1.5957691216057308f, CUBIC = 0.044715f;

__device__ __forceinline__ float decay(float x) { return __expf(fminf(MOST, -SLOPE * x * (1 + CUBIC * x * x))); }

extern "C" __global__ void __launch_bounds__(THREADS) gelu(const T* x, T* y, int64 n) {
    each(n, [](int64, float x, float& y) {
        const float near = x < -FAR ? -FAR : x;
        y = __fdividef(near, 1 + decay(near));
    }, In(x), Out(y));
}

extern "C" __global__ void __launch_bounds__(THREADS) gelu_backward(const T* dy, const T* x, T* dx, int64 n) {
    each(n, [](int64, float dy, float x, float& dx) {
        const float near = x > FAR ? FAR : x < -FAR ? -FAR : x, far = decay(near), share = __fdividef(1, 1 + far);
        dx = dy * share * (1 + near * far * share * SLOPE * (1 + 3 * CUBIC * near * near));
    }, In(dy), In(x), Out(dx));
}

// SplitMix64, as ref.py spells it out.
constexpr uint64 GOLDEN = 0x9E3779B97F4A7C15ull;

__device__ __forceinline__ uint64 mix(uint64 z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

template <> struct Number<uint8> {
    static __device__ __forceinline__ uint8 from(float x) { return (uint8)x; }
};

extern "C" __global__ void __launch_bounds__(THREADS, 3) dropout(const T* x, T* y, uint8* mask, int64 n, uint64 threshold,
                                                              float scale, uint64 seed, uint64 first,
                                                              const uint64* seed_at, const uint64* first_at) {
    if (seed_at) seed = *seed_at, first = *first_at;
    const uint64 begin = mix(seed) + GOLDEN * (first + 1);
    each(n, [=](int64 i, float x, float& y, float& mask) {
        const bool keep = mix(begin + GOLDEN * i) >> 32 >= threshold;
        mask = keep;
        y = x * (keep ? scale : 0);
    }, In(x), Out(y), Out(mask));
}

extern "C" __global__ void __launch_bounds__(THREADS) dropout_backward(const T* dy, const uint8* mask, T* dx, int64 n,
                                                                       float scale) {
    each(n, [=](int64, float dy, float mask, float& dx) { dx = dy * (mask * scale); }, In(dy), In(mask), Out(dx));
}
