// Compression of float32 gradients: the largest numbers by counting, as on the CPU, and products with thin factors.
#include "device.cuh"
#include "scan.cuh"

#define BINS 32768  // upper halves of numbers without their signs
#define ROWS 4      // of a matrix, of a block or a thread
#define RANKS 4     // of factors, at a time
#define EACH(i, n) _Pragma("unroll") for (int i = 0; i < n; i++)

__device__ __forceinline__ int bin(float x) { return (__float_as_uint(x) & 0x7fffffffu) >> 16; }

// error += gradient; counts (BINS,) += how many of it are in each bin.
extern "C" __global__ void __launch_bounds__(1024) add_and_count(const float* gradient, float* error, int* counts,
                                                                 int64 size) {
    DYN_SMEM(int, mine);
    for (int b = threadIdx.x; b < BINS; b += blockDim.x) mine[b] = 0;
    __syncthreads();
    for (int64 start = first_thread(); start < size; start += 4 * all_threads()) {
        float sum[4];
        EACH(u, 4) {
            const int64 i = start + u * all_threads();
            if (i < size) sum[u] = error[i] + gradient[i];
        }
        EACH(u, 4) {
            const int64 i = start + u * all_threads();
            if (i >= size) break;
            error[i] = sum[u];
            atomicAdd(&mine[bin(sum[u])], 1);
        }
    }
    __syncthreads();
    for (int b = threadIdx.x; b < BINS; b += blockDim.x)
        if (mine[b]) atomicAdd(&counts[b], mine[b]);
}

// chosen: the last bin from above of which there are some among the k largest, and how many; one block.
extern "C" __global__ void __launch_bounds__(1024) choose(const int* counts, int* chosen, int k) {
    const int each = BINS / 1024, top = BINS - 1 - threadIdx.x * each;
    int sum = 0;
    for (int b = top; b > top - each; b--) sum += counts[b];
    int before = sum_before(sum);
    for (int b = top; b > top - each; b--) {
        if (before < k && before + counts[b] >= k) chosen[0] = b, chosen[1] = k - before;
        before += counts[b];
    }
}

// found (2,blocks): how many numbers of each 1024 are beyond the last bin, and how many in it.
extern "C" __global__ void __launch_bounds__(1024) find(const float* error, const int* chosen, int* found, int64 size) {
    const int64 i = first_thread();
    const int where = i < size ? bin(error[i]) : -1;
    const int beyond = __syncthreads_count(where > chosen[0]), in = __syncthreads_count(where == chosen[0]);
    if (threadIdx.x == 0) found[blockIdx.x] = beyond, found[gridDim.x + blockIdx.x] = in;
}

// How many threads before this one of a block of 1024 say yes. All threads call it.
__device__ int yes_before(bool yes) {
    __shared__ int warps[32];
    const unsigned votes = __ballot_sync(WHOLE_WARP, yes);
    __syncthreads();  // it may be the second call
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = __popc(votes);
    __syncthreads();
    int before = __popc(votes & ((1u << threadIdx.x % 32) - 1));
    for (int warp = 0; warp < threadIdx.x / 32; warp++) before += warps[warp];
    return before;
}

// Move those beyond and the first ones in the last bin to packed (2k,); found has been scanned.
extern "C" __global__ void __launch_bounds__(1024) take(float* error, const int* chosen, const int* found, int* packed,
                                                        int k, int64 size) {
    const int64 i = first_thread();
    const int last = chosen[0], spare = chosen[1], where = i < size ? bin(error[i]) : -1;
    const int beyond_before = found[blockIdx.x], in_before = found[gridDim.x + blockIdx.x] - (k - spare);
    const bool first = in_before + yes_before(where == last) < spare, taken = where > last || (where == last && first);
    const int to = beyond_before + min(in_before, spare) + yes_before(taken);
    if (!taken) return;
    packed[to] = (int)i, packed[k + to] = __float_as_int(error[i]);
    error[i] = 0;
}

// gradient += k numbers at their indices, which differ; indices that there are not are skipped.
extern "C" __global__ void __launch_bounds__(256) add_packed(const int* packed, float* gradient, int k, int64 size) {
    for (int i = (int)first_thread(); i < k; i += (int)all_threads())
        if (packed[i] >= 0 && packed[i] < size) gradient[packed[i]] += __int_as_float(packed[k + i]);
}

// gradient += error; error = 0; P (n,r) = gradient Q^T. A block has ROWS rows.
extern "C" __global__ void __launch_bounds__(256) project(float* gradient, float* error, const float* Q, float* P,
                                                          int n, int m, int r) {
    __shared__ float scratch[8][ROWS][RANKS];
    const int warp = threadIdx.x / 32, top = blockIdx.x * ROWS;
    for (int first = 0; first < r; first += RANKS) {
        float sum[ROWS][RANKS] = {}, row[ROWS], factor[RANKS];
        for (int j = threadIdx.x; j < m; j += blockDim.x) {
            EACH(k, RANKS) factor[k] = first + k < r ? Q[(int64)(first + k) * m + j] : 0.f;
            EACH(u, ROWS) {
                const int64 at = (int64)(top + u) * m + j;
                row[u] = top + u < n ? gradient[at] : 0.f;
                if (first > 0 || top + u >= n) continue;
                gradient[at] = row[u] += error[at];
                error[at] = 0;
            }
            EACH(u, ROWS) EACH(k, RANKS) sum[u][k] += row[u] * factor[k];
        }
        EACH(u, ROWS) EACH(k, RANKS) {
            const float total = warp_sum(sum[u][k]);
            if (threadIdx.x % 32 == 0) scratch[warp][u][k] = total;
        }
        __syncthreads();
        const int u = threadIdx.x / RANKS, k = threadIdx.x % RANKS;
        if (u < ROWS && top + u < n && first + k < r) {
            float total = 0;
            for (int w = 0; w < 8; w++) total += scratch[w][u][k];
            P[(int64)(top + u) * r + first + k] = total;
        }
        __syncthreads();
    }
}

// M = P Q; error += gradient - share M; gradient = M. A thread has ROWS rows of a column.
extern "C" __global__ void __launch_bounds__(256) expand(float* gradient, float* error, const float* P, const float* Q,
                                                         float share, int n, int m, int r) {
    const int top = blockIdx.x * ROWS, j = blockIdx.y * blockDim.x + threadIdx.x;
    if (j >= m) return;
    float made[ROWS] = {};
    for (int k = 0; k < r; k++) {
        const float factor = Q[(int64)k * m + j];
        EACH(u, ROWS) if (top + u < n) made[u] += P[(int64)(top + u) * r + k] * factor;
    }
    EACH(u, ROWS) if (top + u < n) {
        const int64 at = (int64)(top + u) * m + j;
        error[at] = error[at] + gradient[at] - share * made[u];
        gradient[at] = made[u];
    }
}
