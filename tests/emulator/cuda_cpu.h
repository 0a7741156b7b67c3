// Runs CUDA C++ kernels on a CPU: one fiber per CUDA thread, blocks one after another.
//
// Stands before the source of a kernel; what follows the source calls emulator::launch. Shared memory is poisoned
// before each block. A kernel that cannot run on, or touches memory that is not its own, ends with a message.
#pragma once
#define CUDA_CPU 1
#include "cuda_cpu/types.h"
#include "cuda_cpu/arithmetic.h"
#include "cuda_cpu/block.h"
#include "cuda_cpu/checks.h"
#include "cuda_cpu/copies.h"
#include "cuda_cpu/warp.h"
#include "cuda_cpu/launch.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ static __attribute__((section("cuda_cpu_shared")))
#define DYN_SMEM(T, name) T* const name = reinterpret_cast<T*>(emulator::block.request->dynamic)
