// bfloat16 and back, and sums in the order of ranks. Denormal sums count as zero; a number that is only rounded or
// widened does not.
#include "device.cuh"
#include "elementwise.cuh"

constexpr int THREADS = 256;
constexpr float MOST = 3.402823466e38f;

extern "C" __global__ void __launch_bounds__(THREADS) encode_bfloat16(const float* x, bfloat16* out, int64 n) {
    each(n, [](int64, float x, float& out) { out = x; }, In(x), Out(out));
}

extern "C" __global__ void __launch_bounds__(THREADS) encode_with_feedback(const float* x, bfloat16* out, float* error,
                                                                           int64 n) {
    each(n, [](int64, float x, float& out, float& error) {
        const float value = x + error;
        out = to_float(as<bfloat16>(value));
        error = fabsf(out) <= MOST ? value - out : 0;
    }, In(x), Out(out), Both(error));
}

extern "C" __global__ void __launch_bounds__(THREADS) decode_bfloat16(const bfloat16* x, float* out, int64 n) {
    each(n, [](int64, float x, float& out) { out = x; }, In(x), Out(out));
}

// out (n,) = the sum of the rows of parts (P,n).
extern "C" __global__ void __launch_bounds__(THREADS) ordered_sum(T* out, const T* parts, int64 n, int P) {
    for (int64 at = first_thread() * VEC; at < n; at += all_threads() * VEC) {
        float total[VEC];
        load(total, parts + at);
#pragma unroll 4
        for (int p = 1; p < P; p++) {
            float part[VEC];
            load(part, parts + p * n + at);
#pragma unroll
            for (int i = 0; i < VEC; i++) total[i] += part[i];
        }
        store(out + at, total);
    }
}
