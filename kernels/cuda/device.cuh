// What all kernels share: numbers as they lie in memory, and what stands for the GPU where a CPU runs the source. T and
// the like are macros: templates must call their parameters otherwise.
#pragma once

typedef unsigned char uint8;
typedef unsigned short uint16;
typedef long long int64;
typedef unsigned long long uint64;

#ifndef CUDA_CPU
#define DYN_SMEM(kind, name) extern __shared__ __align__(128) kind name[]
#endif

constexpr unsigned WHOLE_WARP = 0xffffffffu;

// bfloat16, the upper half of a float.
struct bfloat16 {
    uint16 bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(bfloat16 x) { return __uint_as_float((unsigned)x.bits << 16); }

// To nearest, ties to even; NaN stays NaN.
__device__ __forceinline__ uint16 bfloat16_bits(float x) {
#ifndef CUDA_CPU
    uint16 bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
#else
    unsigned u = __float_as_uint(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16)(u >> 16 | 0x40);
    return (uint16)((u + 0x7fffu + (u >> 16 & 1)) >> 16);
#endif
}

// Two of them in a register, x the lower half.
__device__ __forceinline__ unsigned two_bfloat16(float x, float y) {
#ifndef CUDA_CPU
    unsigned both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(y), "f"(x));
    return both;
#else
    return bfloat16_bits(x) | (unsigned)bfloat16_bits(y) << 16;
#endif
}

template <class Kind> struct Number;
template <> struct Number<float> {
    static __device__ __forceinline__ float from(float x) { return x; }
};
template <> struct Number<bfloat16> {
    static __device__ __forceinline__ bfloat16 from(float x) { return bfloat16{bfloat16_bits(x)}; }
};

// The number as that kind.
template <class Kind> __device__ __forceinline__ Kind as(float x) { return Number<Kind>::from(x); }

// Numbers that one thread moves at a time: 16 bytes of floats or of bfloat16s where addresses allow it, else one.
template <class Kind, int N> struct __align__(N * sizeof(Kind) < 16 ? N * sizeof(Kind) : 16) Pack {
    Kind at[N];
};

template <int N, class Kind> __device__ __forceinline__ void load(float (&into)[N], const Kind* from) {
    Pack<Kind, N> pack = *reinterpret_cast<const Pack<Kind, N>*>(from);
#pragma unroll
    for (int i = 0; i < N; i++) into[i] = to_float(pack.at[i]);
}

// A pack in one store, or one for each 16 bytes: the compiler tears those of structures now and then.
template <class Kind, int N> __device__ __forceinline__ void put(Kind* into, const Pack<Kind, N>& pack) {
#ifdef CUDA_CPU
    *reinterpret_cast<Pack<Kind, N>*>(into) = pack;
#else
    if constexpr (sizeof(pack) == 4) {
        *reinterpret_cast<unsigned*>(into) = reinterpret_cast<const unsigned&>(pack);
    } else if constexpr (sizeof(pack) == 8) {
        *reinterpret_cast<uint64*>(into) = reinterpret_cast<const uint64&>(pack);
    } else if constexpr (sizeof(pack) >= 16) {
#pragma unroll
        for (int i = 0; i < sizeof(pack) / 16; i++) {
            const uint4 word = reinterpret_cast<const uint4*>(&pack)[i];
            asm volatile("st.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(reinterpret_cast<uint4*>(into) + i), "r"(word.x),
                         "r"(word.y), "r"(word.z), "r"(word.w) : "memory");
        }
    } else {
        *reinterpret_cast<Pack<Kind, N>*>(into) = pack;
    }
#endif
}

template <int N, class Kind> __device__ __forceinline__ void store(Kind* into, const float (&from)[N]) {
    Pack<Kind, N> pack;
#pragma unroll
    for (int i = 0; i < N; i++) pack.at[i] = as<Kind>(from[i]);
    put(into, pack);
}

// This thread's number in the grid, and how many there are: for (int64 i = first(); i < n; i += stride()).
__device__ __forceinline__ int64 first_thread() { return (int64)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ __forceinline__ int64 all_threads() { return (int64)gridDim.x * blockDim.x; }

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(WHOLE_WARP, x, d);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2) x = fmaxf(x, __shfl_xor_sync(WHOLE_WARP, x, d));
    return x;
}
