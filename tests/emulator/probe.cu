// Kernels that show what the emulator does, and what it catches. Some take a number that chooses a mistake.
#define ALL 0xffffffffu

extern "C" __global__ void __launch_bounds__(256)
tile_product(const float* a, const float* b, float* c, int n, int first, int second) {
    __shared__ float left[16][16], right[16][16];
    const int x = threadIdx.x, y = threadIdx.y, row = blockIdx.y * 16 + y, column = blockIdx.x * 16 + x;
    float sum = 0;
    for (int k = 0; k < n; k += 16) {
        left[y][x] = a[row * n + k + x], right[y][x] = b[(k + y) * n + column];
        if (first) __syncthreads();
#pragma unroll
        for (int i = 0; i < 16; i++) sum += left[y][i] * right[i][x];
        if (second) __syncthreads();
    }
    c[row * n + column] = sum;
}

// The sum of a row of lines of 128 floats, each line fetched while the one before is added.
extern "C" __global__ void __launch_bounds__(128)
pipeline(const float* lines, float* sum, int count, int patient, int barrier) {
    __shared__ __align__(16) float stage[2][128];
    const int t = threadIdx.x;
    float mine = 0;
    if (t < 32) cp_async16(&stage[0][4 * t], lines + 4 * t, true);
    cp_async_commit();
    for (int line = 0; line < count; line++) {
        if (t < 32) cp_async16(&stage[(line + 1) % 2][4 * t], lines + 128 * (line + 1) + 4 * t, line + 1 < count);
        cp_async_commit();
        if (patient) cp_async_wait<1>();
        else cp_async_wait<2>();
        __syncthreads();
        mine += stage[line % 2][127 - t];
        if (barrier) __syncthreads();
    }
    cp_async_wait<0>();
    __syncthreads();
    sum[127 - t] = mine + stage[count % 2][t];  // plus zeros: what was not ok
}

template <class T> __device__ void shuffle_all(const T* x, T* y) {
    const int t = threadIdx.x;
    y[t] = __shfl_sync(ALL, x[t], t + 5);
    y[t + 32] = __shfl_xor_sync(ALL, x[t], 9);
    y[t + 64] = __shfl_down_sync(ALL, x[t], 3);
    y[t + 96] = __shfl_up_sync(ALL, x[t], 3, 8);
    y[t + 128] = __shfl_sync(ALL, x[t], 2, 4);
}

extern "C" __global__ void shuffles(const int* x, int* y, const double* x8, double* y8) {
    shuffle_all(x, y), shuffle_all(x8, y8);
}

extern "C" __global__ void votes(const int* x, unsigned* y) {
    const int t = threadIdx.x;
    const bool odd = x[t] % 2;
    y[t] = __ballot_sync(ALL, odd);
    y[t + 32] = __any_sync(ALL, odd) + 2 * __all_sync(ALL, odd);
    const unsigned half = t < 16 ? 0xffffu : 0xffff0000u;
    y[t + 64] = __ballot_sync(half, odd);
    y[t + 96] = __reduce_add_sync(half, x[t]);
    y[t + 128] = __reduce_min_sync(half, x[t]);
    y[t + 160] = __reduce_max_sync(half, x[t]);
    if (t < 8) y[t + 192] = __shfl_sync(0xffu, t, 7 - t);
    y[t + 224] = __syncthreads_count(odd) + 100 * __syncthreads_or(t == 3) + 1000 * __syncthreads_and(t < 31);
}

// Fragments as they come: a (32,4), b (32,2), d (32,4).
extern "C" __global__ void fragments(const unsigned* a, const unsigned* b, float* d, int bf16) {
    const int t = threadIdx.x;
    unsigned left[4], right[2];
    float sum[4];
    for (int i = 0; i < 4; i++) left[i] = a[4 * t + i], sum[i] = d[4 * t + i];
    for (int i = 0; i < 2; i++) right[i] = b[2 * t + i];
    if (bf16) mma_m16n8k16_bf16(sum, left, right);
    else mma_m16n8k8_tf32(sum, left, right);
    for (int i = 0; i < 4; i++) d[4 * t + i] = sum[i];
}

// What ldmatrix makes of 32 rows of 16 bytes, which lie `pitch` bytes apart.
extern "C" __global__ void matrices(const unsigned short* rows, unsigned* into, int pitch) {
    DYN_SMEM(char, shared);
    const int t = threadIdx.x;
    for (int i = 0; i < 8; i++) reinterpret_cast<unsigned short*>(shared + t * pitch)[i] = rows[8 * t + i];
    __syncwarp();
    unsigned four[4], four_transposed[4], two[2], two_transposed[2];
    ldmatrix_x4(four, shared + t * pitch), ldmatrix_x4_trans(four_transposed, shared + t * pitch);
    ldmatrix_x2(two, shared + t % 16 * pitch), ldmatrix_x2_trans(two_transposed, shared + t % 16 * pitch);
    for (int i = 0; i < 4; i++) into[12 * t + i] = four[i], into[12 * t + 4 + i] = four_transposed[i];
    for (int i = 0; i < 2; i++) into[12 * t + 8 + i] = two[i], into[12 * t + 10 + i] = two_transposed[i];
}

extern "C" __global__ void rounded(const float* x, unsigned* y) { y[threadIdx.x] = to_tf32(x[threadIdx.x]); }

__device__ __noinline__ float from_large_stack(int i) {
    volatile float large[1 << 18];
    large[i] = 1;
    return large[i + 1];
}

extern "C" __global__ void mistakes(int which, float* x, int zero) {
    DYN_SMEM(float, dynamic);
    __shared__ float fixed[2][8];
    const int t = threadIdx.x;
    unsigned a[4] = {}, b[2] = {};
    float d[4] = {};
    if (which == 0 && t < 32) __syncthreads();
    if (which == 1) t < 32 ? __syncthreads() : (void)__syncthreads_or(1);
    if (which == 2 && t != 5) mma_m16n8k8_tf32(d, a, b);
    if (which == 3) t == 0 ? __syncwarp() : (void)__shfl_sync(ALL, t, 0);
    if (which == 4) __shfl_sync(0xfffffffeu, t, 1);
    if (which == 5) cp_async16(dynamic + 1, x, true);
    if (which == 6) cp_async8(dynamic, x + 1, true);
    if (which == 7) cp_async16(x, x, true);
    if (which == 8) *reinterpret_cast<float4*>(x + 2) = float4{};
    if (which == 9) fixed[0][8 + zero] = 0;
    if (which == 10) x[16] = 1;
    if (which == 11) dynamic[5] = x[zero - 1500];
    if (which == 12) dynamic[32] = 1;
    if (which == 13) x[0] = (t + 100) / zero;
    if (which == 14) while (*static_cast<volatile float*>(x) != 7) {}
    if (which == 15) x[13] = 1;
    if (which == 16) ldmatrix_x2(b, dynamic + 2);
    if (which == 17) x[0] = from_large_stack(zero);
}

extern "C" __global__ void unwritten(unsigned* x) {
    DYN_SMEM(unsigned, dynamic);
    __shared__ unsigned fixed[32];
    x[64 * blockIdx.x + threadIdx.x] = fixed[threadIdx.x], x[64 * blockIdx.x + 32 + threadIdx.x] = dynamic[threadIdx.x];
    fixed[threadIdx.x] = dynamic[threadIdx.x] = 0;
}

extern "C" __global__ void order(int* x, int* count) {
    if (threadIdx.x % 32 == 0) x[threadIdx.x / 32 + 2 * (blockIdx.x + 3 * blockIdx.y)] = atomicAdd(count, 1);
}

struct Three {
    float x;
    int y[2];
};

extern "C" __global__ void scalars(int i, unsigned u, long long l, float f, double d, bool b, const Three three,
                                   const void* nothing, double* x) {
    x[0] = i, x[1] = u, x[2] = l, x[3] = f, x[4] = d, x[5] = b, x[6] = three.x, x[7] = three.y[1];
    x[8] = nothing == nullptr;
}

extern "C" __global__ void add(const float* x, float y, float* z, int n) {
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) z[i] = x[i] + y;
}

extern "C" __global__ void arithmetic(const float* x, double* y) {
    __shared__ int counter;
    if (threadIdx.x > 0) return;
    counter = 5;
    float sum = x[0];
    int i = 0;
    for (double value :
         {double(atomicAdd(&counter, 3)), double(atomicMax(&counter, 100)), double(atomicMin(&counter, 7)),
          double(atomicCAS(&counter, 7, 9)), double(atomicExch(&counter, 1)), double(counter),
          double(atomicAdd(&sum, 2)), double(sum), double(__popc(0xf0f0)), double(__clz(1)), double(__ffs(8)),
          double(__umulhi(1u << 31, 6)), double(__mul24(-3, 5)), double(__brev(1)), double(__float_as_uint(1.f)),
          double(__uint_as_float(0x40000000u)), double(max(-1, 3)), double(min(2.f, x[1])), double(max(2u, 3)),
          double(rsqrtf(x[0])), double(__expf(0)), double(__fmul_rn(x[2], x[2]) - __fmul_rn(x[2], x[2])),
          double(fmaf(2, 3, 4)), double(__float2int_rn(2.5f)), double(__byte_perm(0x44332211, 0x88776655, 0x6543)),
          double(make_float4(1, 2, 3, 4).w), double(make_uchar4(1, 2, 3, 255).w), double(abs(-1.5f)),
          double(isnan(x[0])), double(sqrt(6.25f))})
        y[i++] = value;
}
