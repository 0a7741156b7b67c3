// Softmax and cross entropy, a block for each row: once over it for its largest and the sum of exponentials, kept up to
// date together (Milakov and Gimelshein 2018), and once more, out of the cache, to write.
#include "device.cuh"

constexpr int AHEAD = 2;  // packs that a thread reads before it uses the first
constexpr float LOWEST = -3.402823466e38f;

__device__ __forceinline__ float infinity() { return __uint_as_float(0x7f800000u); }
__device__ __forceinline__ float nan() { return __uint_as_float(0x7fc00000u); }

// work(column, numbers) for all C columns of a row: VEC numbers from where its addresses are multiples of 16 bytes on,
// single ones before and after.
template <class Work> __device__ __forceinline__ void each_column(const T* row, int C, Work work) {
    const int before = VEC == 1 ? 0 : (int)(-reinterpret_cast<uint64>(row) % 16 / sizeof(T)), head = min(before, C);
    const int packs = (C - head) / VEC, tail = head + packs * VEC;
    for (int p = threadIdx.x; p < packs; p += AHEAD * blockDim.x) {
        Pack<T, VEC> held[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            if (p + i * blockDim.x < packs)
                held[i] = reinterpret_cast<const Pack<T, VEC>*>(row + head)[p + i * blockDim.x];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            if (p + i * blockDim.x >= packs) break;
            float numbers[VEC];
#pragma unroll
            for (int k = 0; k < VEC; k++) numbers[k] = to_float(held[i].at[k]);
            work(head + (p + i * blockDim.x) * VEC, numbers);
        }
    }
    const int single = (int)threadIdx.x < head ? threadIdx.x : tail + threadIdx.x - head;
    if (VEC == 1 || single >= C) return;
    float one[1] = {to_float(row[single])};
    work(single, one);
}

// The sum over a block, or the largest, on all its threads. scratch: a float for each warp.
template <bool LARGEST> __device__ __forceinline__ float of_block(float x, float* scratch) {
    x = LARGEST ? warp_max(x) : warp_sum(x);
    __syncthreads();  // what was there has been read
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    x = threadIdx.x % 32 < blockDim.x / 32 ? scratch[threadIdx.x % 32] : LARGEST ? -infinity() : 0;
    return LARGEST ? warp_max(x) : warp_sum(x);
}

struct Row {
    float peak, exponentials, total;  // the largest, the sum of exp(x - peak), the sum of x
};

// Of all -inf the peak is, too, so that whatever is made of x - peak is NaN; before the first number, exponentials are
// none: LOWEST in its place sees to that.
__device__ __forceinline__ Row row_of(const T* logits, int C, float* scratch) {
    float peak = LOWEST, largest = -infinity(), exponentials = 0, total = 0;
    each_column(logits, C, [&](int, auto& x) {
        const float old = peak;
        for (float number : x) largest = fmaxf(largest, number);
        peak = fmaxf(largest, LOWEST);
        exponentials *= __expf(old - peak);
        for (float number : x) {
            exponentials += __expf(number - peak);
            total += number;
        }
    });
    largest = of_block<true>(largest, scratch);
    exponentials *= __expf(peak - fmaxf(largest, LOWEST));
    return {largest, of_block<false>(exponentials, scratch), of_block<false>(total, scratch)};
}

extern "C" __global__ void __launch_bounds__(1024) softmax(const T* __restrict__ logits, T* __restrict__ y, int C) {
    __shared__ float scratch[32];
    const int64 start = (int64)blockIdx.x * C;
    const Row row = row_of(logits + start, C, scratch);
    const float scale = __fdividef(1, row.exponentials);
    each_column(logits + start, C, [&](int c, auto& x) {
        for (float& number : x) number = __expf(number - row.peak) * scale;
        store(y + start + c, x);
    });
}

// The target is smoothing / C everywhere, and 1 - smoothing more at the label. One that is no class makes all NaN.
extern "C" __global__ void __launch_bounds__(1024)
softmax_cross_entropy(const T* __restrict__ logits, const int64* labels, float* loss, T* __restrict__ dlogits, int C,
                      float smoothing, float everywhere) {
    __shared__ float scratch[32];
    const int64 start = (int64)blockIdx.x * C, label = labels[blockIdx.x];
    const bool legal = label >= 0 && label < C;
    const Row row = row_of(logits + start, C, scratch);
    const float scale = legal ? __fdividef(1, row.exponentials) : nan();
    if (threadIdx.x == 0) {
        const float x = legal ? to_float(logits[start + label]) : nan();
        const float smooth = smoothing > 0 ? smoothing * (__fdividef(row.total, C) - x) : 0;  // of a -inf nothing, not NaN
        loss[blockIdx.x] = logf(row.exponentials) - (x - row.peak + smooth);
    }
    each_column(logits + start, C, [&](int c, auto& x) {
        int at = c;
        for (float& number : x)
            number = __expf(number - row.peak) * scale - everywhere - (at++ == label ? 1 - smoothing : 0);
        store(dlogits + start + c, x);
    });
}
