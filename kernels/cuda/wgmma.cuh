// Products by a warpgroup of four warps that read both operands from shared memory by themselves (PTX ISA 8.x, wgmma; of
// sm_90a alone). They go on while the threads do other things, until they are waited for.
//
// An operand is described by where it begins, in tiles whose lines are 128 bytes with chunks of 16 changing places (the
// swizzle of 128 bytes): eight lines after each other are 1024 bytes, which is a multiple of what addresses are, too.
#pragma once

constexpr int ALIGNMENT = 1024;  // bytes, of tiles

// The matrix in shared memory from there on: eight lines after the next eight; `step` bytes on, further 64 rows, of an
// operand whose lines go along its rows.
__device__ __forceinline__ uint64 descriptor(const void* at, unsigned step) {
    constexpr uint64 SWIZZLE_128 = 1ull << 62, EIGHT_LINES = uint64(1024 >> 4) << 32;
    return SWIZZLE_128 | EIGHT_LINES | uint64(step >> 4) << 16 | ((shared_address(at) & 0x3ffff) >> 4);
}

// What this thread has written to shared memory is there for wgmma, after the next barrier.
__device__ __forceinline__ void wgmma_written() { asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory"); }
// The sums are in their registers.
__device__ __forceinline__ void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory"); }
__device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned 0;\n" ::: "memory"); }

#define FOUR(d) "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])

// d (64,N) += a b over 16 k's of bfloat16. TURNED: lines go along the rows of a, or the columns of b, not along k.
template <int N> struct Wgmma;

template <> struct Wgmma<64> {
    template <int A_TURNED, int B_TURNED>
    static __device__ __forceinline__ void add(float (&d)[8][4], uint64 a, uint64 b) {
        asm volatile("{.reg .pred p; setp.eq.u32 p, 0, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
                     "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
                     "}, %32, %33, p, 1, 1, %34, %35;}\n"
                     : FOUR(d[0]), FOUR(d[1]), FOUR(d[2]), FOUR(d[3]), FOUR(d[4]), FOUR(d[5]), FOUR(d[6]), FOUR(d[7])
                     : "l"(a), "l"(b), "n"(A_TURNED), "n"(B_TURNED));
    }
};

template <> struct Wgmma<128> {
    template <int A_TURNED, int B_TURNED>
    static __device__ __forceinline__ void add(float (&d)[16][4], uint64 a, uint64 b) {
        asm volatile("{.reg .pred p; setp.eq.u32 p, 0, 0;\n"
                     "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                     "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                     "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                     "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                     "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
                     "}, %64, %65, p, 1, 1, %66, %67;}\n"
                     : FOUR(d[0]), FOUR(d[1]), FOUR(d[2]), FOUR(d[3]), FOUR(d[4]), FOUR(d[5]), FOUR(d[6]), FOUR(d[7]),
                       FOUR(d[8]), FOUR(d[9]), FOUR(d[10]), FOUR(d[11]), FOUR(d[12]), FOUR(d[13]), FOUR(d[14]), FOUR(d[15])
                     : "l"(a), "l"(b), "n"(A_TURNED), "n"(B_TURNED));
    }
};

#undef FOUR
