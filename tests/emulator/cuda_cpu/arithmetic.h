// The functions of CUDA that concern one thread only.
#pragma once
#include <assert.h>
#include <math.h>  // and not <cmath>: CUDA's abs, isnan and others stand outside namespaces, for every type
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// Keeps a rounded product from being fused with a sum.
#if defined(__x86_64__)
#define CUDA_CPU_ROUNDED(value) asm("" : "+x"(value))
#elif defined(__aarch64__)
#define CUDA_CPU_ROUNDED(value) asm("" : "+w"(value))
#else
#define CUDA_CPU_ROUNDED(value) asm("" : "+m"(value))
#endif

template <class To, class From>
static inline To cuda_cpu_bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

static inline float __uint_as_float(unsigned x) { return cuda_cpu_bits<float>(x); }
static inline float __int_as_float(int x) { return cuda_cpu_bits<float>(x); }
static inline unsigned __float_as_uint(float x) { return cuda_cpu_bits<unsigned>(x); }
static inline int __float_as_int(float x) { return cuda_cpu_bits<int>(x); }
static inline long long __double_as_longlong(double x) { return cuda_cpu_bits<long long>(x); }
static inline double __longlong_as_double(long long x) { return cuda_cpu_bits<double>(x); }

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline unsigned __brev(unsigned x) {
    unsigned y = 0;
    for (int bit = 0; bit < 32; bit++) y |= (x >> bit & 1) << (31 - bit);
    return y;
}
static inline int __mulhi(int x, int y) { return int(((long long)x * y) >> 32); }
static inline unsigned __umulhi(unsigned x, unsigned y) { return unsigned(((unsigned long long)x * y) >> 32); }
static inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y) {
    return (unsigned long long)(((unsigned __int128)x * y) >> 64);
}
static inline int __mul24(int x, int y) { return int(unsigned(x << 8 >> 8) * unsigned(y << 8 >> 8)); }
static inline unsigned __umul24(unsigned x, unsigned y) { return (x & 0xffffff) * (y & 0xffffff); }
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
    unsigned long long both = (unsigned long long)y << 32 | x;
    unsigned result = 0;
    for (int byte = 0; byte < 4; byte++) result |= unsigned(both >> 8 * (selector >> 4 * byte & 7) & 0xff) << 8 * byte;
    return result;
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
    return unsigned((((unsigned long long)high << 32 | low) << (shift & 31)) >> 32);
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
    return unsigned(((unsigned long long)high << 32 | low) >> (shift & 31));
}

static inline float __fmul_rn(float x, float y) {
    float z = x * y;
    CUDA_CPU_ROUNDED(z);
    return z;
}
static inline float __fadd_rn(float x, float y) {
    CUDA_CPU_ROUNDED(x);
    CUDA_CPU_ROUNDED(y);
    return x + y;
}
static inline float __fsub_rn(float x, float y) { return __fadd_rn(x, -y); }
static inline float __fmaf_rn(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
static inline float __fdiv_rn(float x, float y) { return x / y; }
static inline float __frcp_rn(float x) { return 1 / x; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
static inline double rsqrt(double x) { return 1 / sqrt(x); }
static inline float __frsqrt_rn(float x) { return rsqrtf(x); }
static inline float __fdividef(float x, float y) { return x / y; }
// These names are taken: the C library declares them, and does not export them.
#define __expf(x) expf(x)
#define __exp10f(x) powf(10.f, x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __log10f(x) log10f(x)
#define __powf(x, y) powf(x, y)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __tanf(x) tanf(x)
static inline float __saturatef(float x) { return x > 0 ? x < 1 ? x : 1.f : 0.f; }

// Conversions saturate, and turn NaN into zero.
template <class To>
static inline To cuda_cpu_convert(double x, double least, double most) {
    return To(x != x ? 0 : x < least ? least : x > most ? most : x);
}
static inline int __float2int_rn(float x) { return cuda_cpu_convert<int>(nearbyint(x), -2147483648., 2147483647.); }
static inline int __float2int_rz(float x) { return cuda_cpu_convert<int>(trunc(x), -2147483648., 2147483647.); }
static inline int __float2int_rd(float x) { return cuda_cpu_convert<int>(floor(x), -2147483648., 2147483647.); }
static inline int __float2int_ru(float x) { return cuda_cpu_convert<int>(ceil(x), -2147483648., 2147483647.); }
static inline unsigned __float2uint_rn(float x) { return cuda_cpu_convert<unsigned>(nearbyint(x), 0, 4294967295.); }
static inline unsigned __float2uint_rz(float x) { return cuda_cpu_convert<unsigned>(trunc(x), 0, 4294967295.); }
static inline float __int2float_rn(int x) { return float(x); }
static inline float __uint2float_rn(unsigned x) { return float(x); }

// min and max of every pair of types that CUDA has, and of floats as the hardware: NaN only where both are.
#define CUDA_CPU_LEAST(type)                                              \
    static inline type min(type x, type y) { return y < x ? y : x; }      \
    static inline type max(type x, type y) { return x < y ? y : x; }
CUDA_CPU_LEAST(int)
CUDA_CPU_LEAST(unsigned)
CUDA_CPU_LEAST(long)
CUDA_CPU_LEAST(unsigned long)
CUDA_CPU_LEAST(long long)
CUDA_CPU_LEAST(unsigned long long)
#undef CUDA_CPU_LEAST
#define CUDA_CPU_MIXED(type, one, other)                                                 \
    static inline type min(one x, other y) { return min((type)x, (type)y); }             \
    static inline type max(one x, other y) { return max((type)x, (type)y); }             \
    static inline type min(other x, one y) { return min((type)x, (type)y); }             \
    static inline type max(other x, one y) { return max((type)x, (type)y); }
CUDA_CPU_MIXED(unsigned, int, unsigned)
CUDA_CPU_MIXED(unsigned long, long, unsigned long)
CUDA_CPU_MIXED(unsigned long long, long long, unsigned long long)
#undef CUDA_CPU_MIXED
static inline float min(float x, float y) { return fminf(x, y); }
static inline float max(float x, float y) { return fmaxf(x, y); }
static inline double min(double x, double y) { return fmin(x, y); }
static inline double max(double x, double y) { return fmax(x, y); }
static inline double min(float x, double y) { return fmin(x, y); }
static inline double max(float x, double y) { return fmax(x, y); }
static inline double min(double x, float y) { return fmin(x, y); }
static inline double max(double x, float y) { return fmax(x, y); }

// Threads run one at a time and change only where they wait, so these are plain.
template <class T>
struct cuda_cpu_same { using type = T; };
#define CUDA_CPU_ATOMIC(name, result)                                                                         \
    template <class T>                                                                                        \
    static inline T name(T* at, typename cuda_cpu_same<T>::type value) {                                      \
        T old = *at;                                                                                          \
        *at = result;                                                                                         \
        return old;                                                                                           \
    }
CUDA_CPU_ATOMIC(atomicAdd, T(old + value))
CUDA_CPU_ATOMIC(atomicSub, T(old - value))
CUDA_CPU_ATOMIC(atomicMax, old < value ? value : old)
CUDA_CPU_ATOMIC(atomicMin, value < old ? value : old)
CUDA_CPU_ATOMIC(atomicExch, value)
CUDA_CPU_ATOMIC(atomicAnd, T(old & value))
CUDA_CPU_ATOMIC(atomicOr, T(old | value))
CUDA_CPU_ATOMIC(atomicXor, T(old ^ value))
CUDA_CPU_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
#undef CUDA_CPU_ATOMIC
template <class T>
static inline T atomicCAS(T* at, typename cuda_cpu_same<T>::type expected, typename cuda_cpu_same<T>::type value) {
    T old = *at;
    if (old == expected) *at = value;
    return old;
}

template <class T> static inline T __ldg(const T* at) { return *at; }
template <class T> static inline T __ldcg(const T* at) { return *at; }
template <class T> static inline T __ldcs(const T* at) { return *at; }
template <class T> static inline void __stcs(T* at, T value) { *at = value; }
template <class T> static inline void __stcg(T* at, T value) { *at = value; }
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __threadfence_system() {}
static inline void __nanosleep(unsigned) {}
static inline long long clock64() {
    timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}
