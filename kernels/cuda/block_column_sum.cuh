// Sums down the columns of a block of threads (32, up to 32); device.cuh comes first.
#pragma once

// The sum, in the order of rows, to the threads of row 0. All threads of the block call it.
__device__ __forceinline__ double column_sum(double value) {
    __shared__ double scratch[32][33];
    __syncthreads();  // it may be the second sum
    scratch[threadIdx.y][threadIdx.x] = value;
    __syncthreads();
    double total = 0;
    if (threadIdx.y == 0)
        for (int y = 0; y < blockDim.y; y++) total += scratch[y][threadIdx.x];
    return total;
}
