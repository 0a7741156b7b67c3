// Pooling, channels-last: a block makes a row of pixels of what it writes, a thread VEC channels of a pixel at a time.
//     T: type of the images      VEC: numbers a thread moves at once, of which C is a multiple
#include "device.cuh"

#define AXIS(name) \
    int name##_size, int name##_outputs, int name##_taps, int name##_stride, int name##_before, int name##_low, \
        int name##_high
#define WINDOWS(name) \
    Windows { name##_size, name##_outputs, name##_taps, name##_stride, name##_before, name##_low, name##_high }
#define EACH_PACK(pixels) \
    for (int i = threadIdx.x, packs = C / VEC, c, at; c = i % packs * VEC, at = i / packs, i < (pixels) * packs; \
         i += blockDim.x)

// Along one axis; an average divides by the taps within low and high.
struct Windows {
    int size, outputs, taps, stride, before, low, high;

    __device__ int start(int o) const { return o * stride - before; }
    __device__ int begin(int o) const { return max(start(o), 0); }
    __device__ int end(int o) const { return min(start(o) + taps, size); }
    __device__ int count(int o) const { return min(start(o) + taps, high) - max(start(o), low); }
    // Those that contain pixel i are first(i) <= o < last(i).
    __device__ int first(int i) const { return i + before < taps ? 0 : (i + before - taps) / stride + 1; }
    __device__ int last(int i) const { return min(outputs, (i + before) / stride + 1); }
};

// Of an average, one tap's.
__device__ float part(Windows rows, int p, Windows columns, int q) {
    return __fdividef(1.f, (float)(rows.count(p) * columns.count(q)));
}

// y, index (N,P,Q,C): the maximum of each window and its tap; the first of equals, and NaN before all numbers.
extern "C" __global__ void __launch_bounds__(256) maxpool2d(const T* x, T* y, uint8* index, int C, AXIS(rows),
                                                           AXIS(columns)) {
    const Windows rows = WINDOWS(rows), columns = WINDOWS(columns);
    const int n = blockIdx.x / rows.outputs, p = blockIdx.x % rows.outputs;
    EACH_PACK(columns.outputs) {
        float top[VEC], value[VEC];
        int won[VEC];
        const int r = rows.begin(p) - rows.start(p), s = columns.begin(at) - columns.start(at);
#pragma unroll
        for (int v = 0; v < VEC; v++) top[v] = __uint_as_float(0xff800000u), won[v] = r * columns.taps + s;
        for (int h = rows.begin(p); h < rows.end(p); h++)
            for (int w = columns.begin(at); w < columns.end(at); w++) {
                const int tap = (h - rows.start(p)) * columns.taps + w - columns.start(at);
                load(value, x + (((int64)n * rows.size + h) * columns.size + w) * C + c);
#pragma unroll
                for (int v = 0; v < VEC; v++)
                    if (!(value[v] <= top[v]) && top[v] == top[v]) top[v] = value[v], won[v] = tap;
            }
        const int64 to = ((int64)blockIdx.x * columns.outputs + at) * C + c;
        Pack<uint8, VEC> taps;
#pragma unroll
        for (int v = 0; v < VEC; v++) taps.at[v] = (uint8)won[v];
        store(y + to, top);
        put(index + to, taps);
    }
}

// dx (N,H,W,C): the sum of the dy of those windows that the pixel won.
extern "C" __global__ void __launch_bounds__(256) maxpool2d_backward(const T* dy, const uint8* index, T* dx, int C,
                                                                     AXIS(rows), AXIS(columns)) {
    const Windows rows = WINDOWS(rows), columns = WINDOWS(columns);
    const int n = blockIdx.x / rows.size, h = blockIdx.x % rows.size;
    EACH_PACK(columns.size) {
        float sum[VEC] = {}, value[VEC];
        for (int p = rows.first(h); p < rows.last(h); p++)
            for (int q = columns.first(at); q < columns.last(at); q++) {
                const int tap = (h - rows.start(p)) * columns.taps + at - columns.start(q);
                const int64 from = (((int64)n * rows.outputs + p) * columns.outputs + q) * C + c;
                const Pack<uint8, VEC> won = *reinterpret_cast<const Pack<uint8, VEC>*>(index + from);
                load(value, dy + from);
#pragma unroll
                for (int v = 0; v < VEC; v++) sum[v] += won.at[v] == tap ? value[v] : 0.f;
            }
        store(dx + ((int64)blockIdx.x * columns.size + at) * C + c, sum);
    }
}

// y (N,P,Q,C): the mean of each window.
extern "C" __global__ void __launch_bounds__(256) avgpool2d(const T* x, T* y, int C, AXIS(rows), AXIS(columns)) {
    const Windows rows = WINDOWS(rows), columns = WINDOWS(columns);
    const int n = blockIdx.x / rows.outputs, p = blockIdx.x % rows.outputs;
    EACH_PACK(columns.outputs) {
        float sum[VEC] = {}, value[VEC];
        for (int h = rows.begin(p); h < rows.end(p); h++)
            for (int w = columns.begin(at); w < columns.end(at); w++) {
                load(value, x + (((int64)n * rows.size + h) * columns.size + w) * C + c);
#pragma unroll
                for (int v = 0; v < VEC; v++) sum[v] += value[v];
            }
        const float share = part(rows, p, columns, at);
#pragma unroll
        for (int v = 0; v < VEC; v++) sum[v] *= share;
        store(y + ((int64)blockIdx.x * columns.outputs + at) * C + c, sum);
    }
}

// dx (N,H,W,C): the pixel's shares of the dy of all windows that contain it.
extern "C" __global__ void __launch_bounds__(256) avgpool2d_backward(const T* dy, T* dx, int C, AXIS(rows),
                                                                     AXIS(columns)) {
    const Windows rows = WINDOWS(rows), columns = WINDOWS(columns);
    const int n = blockIdx.x / rows.size, h = blockIdx.x % rows.size;
    EACH_PACK(columns.size) {
        float sum[VEC] = {}, value[VEC];
        for (int p = rows.first(h); p < rows.last(h); p++)
            for (int q = columns.first(at); q < columns.last(at); q++) {
                const float share = part(rows, p, columns, q);
                load(value, dy + (((int64)n * rows.outputs + p) * columns.outputs + q) * C + c);
#pragma unroll
                for (int v = 0; v < VEC; v++) sum[v] += share * value[v];
            }
        store(dx + ((int64)blockIdx.x * columns.size + at) * C + c, sum);
    }
}
