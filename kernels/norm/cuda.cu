// Local response normalization. A thread has VEC channels of a pixel, and reads those whose squares their windows reach
// from where its neighbours read them, too: out of the cache. BEFORE and AFTER are channels of a window besides its own.
#include "device.cuh"

constexpr int THREADS = 256;
constexpr int REACH = (BEFORE + AFTER + VEC - 1) / VEC * VEC;  // of windows of windows, to either side, in whole packs

// The channels from c - REACH to c + VEC + REACH of a pixel, zeros where there are none. They are read as they are
// needed: a loop that is unrolled leaves out packs that nobody looks at.
struct Channels {
    float at[VEC + 2 * REACH];
    __device__ __forceinline__ Channels(const T* pixel, int c, int C) {
#pragma unroll
        for (int i = 0; i < VEC + 2 * REACH; i += VEC) {
            float pack[VEC] = {};
            if (c + i >= REACH && c + i - REACH < C) load(pack, pixel + c + i - REACH);
#pragma unroll
            for (int k = 0; k < VEC; k++) at[i + k] = pack[k];
        }
    }
    __device__ __forceinline__ float operator[](int i) const { return at[REACH + i]; }
};

struct Powers {
    float power, inverse;  // 1 / s^beta, 1 / s
};

__device__ __forceinline__ Powers powers(float s, float beta) {
#if THREE_QUARTERS
    const float root = rsqrtf(s);
    return {root * root * rsqrtf(fmaxf(root, 1e-30f)), root * root};  // of an infinite s, too
#else
    return {exp2f(-beta * log2f(s)), __fdividef(1, s)};
#endif
}

// Of channel i, for s = k + share * (sum of the squares in its window).
__device__ __forceinline__ Powers scale(const Channels& x, int i, float share, float beta, float k) {
    float sum = 0;
#pragma unroll
    for (int j = i - BEFORE; j <= i + AFTER; j++) sum += x[j] * x[j];
    return powers(k + share * sum, beta);
}

// work(where a pixel begins, channel) for every pixel and VEC of its C channels; `width` threads have one pixel.
template <class Work> __device__ __forceinline__ void each_channels(int64 pixels, int C, int width, Work work) {
    const int height = THREADS / width, y = threadIdx.x / width;
    if (y >= height) return;
    for (int64 pixel = (int64)blockIdx.x * height + y; pixel < pixels; pixel += (int64)gridDim.x * height)
        for (int c = threadIdx.x % width * VEC; c < C; c += width * VEC) work(pixel * C, c);
}

extern "C" __global__ void __launch_bounds__(THREADS) lrn(const T* x, T* y, int64 pixels, int C, int width, float share,
                                                          float beta, float k) {
    each_channels(pixels, C, width, [=](int64 at, int c) {
        const Channels near(x + at, c, C);
        float result[VEC];
#pragma unroll
        for (int i = 0; i < VEC; i++) result[i] = near[i] * scale(near, i, share, beta, k).power;
        store(y + at + c, result);
    });
}

// With y = x / s^beta, which is cheaper to compute again than to read; slope is 2 share beta.
extern "C" __global__ void __launch_bounds__(THREADS) lrn_backward(const T* dy, const T* x, T* dx, int64 pixels, int C,
                                                                   int width, float share, float beta, float k,
                                                                   float slope) {
    each_channels(pixels, C, width, [=](int64 at, int c) {
        const Channels near(x + at, c, C), gradient(dy + at, c, C);
        float ratio[VEC + BEFORE + AFTER], result[VEC];  // dy y / s of the channels that have ours in their windows
#pragma unroll
        for (int i = -AFTER; i < VEC + BEFORE; i++) {
            const Powers of = scale(near, i, share, beta, k);
            const float direct = gradient[i] * of.power;
            ratio[i + AFTER] = direct * near[i] * of.inverse;
            if (i >= 0 && i < VEC) result[i] = direct;
        }
#pragma unroll
        for (int i = 0; i < VEC; i++) {
            float sum = 0;
#pragma unroll
            for (int j = 0; j <= BEFORE + AFTER; j++) sum += ratio[i + j];
            result[i] -= slope * near[i] * sum;
        }
        store(dx + at + c, result);
    });
}
