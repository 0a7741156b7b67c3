// Sums of all that come before, of counts. After device.cuh.
#pragma once

// Of a number of each thread of a block of 1024, what those of the threads before it sum to. All threads call it.
__device__ __forceinline__ int sum_before(int value) {
    __shared__ int scratch[1024];
    int total = value;
    for (int distance = 1; distance < 1024; distance *= 2) {
        __syncthreads();
        scratch[threadIdx.x] = total;
        __syncthreads();
        if (threadIdx.x >= distance) total += scratch[threadIdx.x - distance];
    }
    return total - value;
}

// counts (n,): each becomes the sum of those before it; one block.
extern "C" __global__ void __launch_bounds__(1024) scan(int* counts, int n) {
    const int each = (n + 1023) / 1024, begin = min((int)threadIdx.x * each, n), end = min(begin + each, n);
    int sum = 0;
    for (int i = begin; i < end; i++) sum += counts[i];
    int before = sum_before(sum);
    for (int i = begin; i < end; i++) {
        const int count = counts[i];
        counts[i] = before;
        before += count;
    }
}
