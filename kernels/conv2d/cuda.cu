// Convolution as a product whose left matrix is never made: its numbers are fetched from the image where they lie.
#define FORWARD 0
#define DGRAD 1
#define WGRAD 2
#define BIAS 3

#if PASS == BIAS
#include "device.cuh"
#include "strips.cuh"

// By the bias: sums of dy (M,K) over its rows, a strip and a piece of them each block; see strips.cuh.
extern "C" __global__ void __launch_bounds__(256) bias_grad(const T* dy, float* sums, int64 M, int K, int width,
                                                            int64 piece) {
    DYN_SMEM(float, scratch);
    sum_columns<VEC>(Strip{M, K, width, piece}, Plain<T, VEC>{dy}, scratch, sums);
}
#else
#include "product.cuh"

// Rows from any image: so far off is a tap that does not exist, and twice as far, the other way, such a position, so that
// both together are outside, too. H, W < OUTSIDE / 2.
constexpr int OUTSIDE = 1 << 14;

// Division of numbers below 2^31 by one that stays the same: a multiplication (Granlund and Montgomery 1994).
struct Divisor {
    unsigned by, factor, shift;
    __device__ __forceinline__ explicit Divisor(int d) : by(d), shift(d > 1 ? 32 - __clz(d - 1) : 0) {
        factor = (unsigned)((((uint64)1 << 32) * (((uint64)1 << shift) - by)) / by + 1);
    }
    __device__ __forceinline__ int operator()(int n) const { return (__umulhi(n, factor) + n) >> shift; }
};

// Where a tap meets the image for one position of the filter: relative to position (0,0) of tap (0,0).
struct Place {
    int offset, y, x;
};

// Positions of the filter: number -> (n,i,j) -> the place in images (N,H,W,line) where its first tap lies.
struct Positions {
    Divisor by_j, by_i;
    int count, J, I, H, W, line, step_y, step_x, off_y, off_x;

    __device__ __forceinline__ Place operator()(int number) const {
        const int rows = by_j(number), n = by_i(rows);
        const int y = (rows - n * I) * step_y + off_y, x = (number - rows * J) * step_x + off_x;
        return {((n * H + y) * W + x) * line, number < count ? y : -2 * OUTSIDE, x};
    }
};

// Taps: number -> (r,s,c) -> how far from the first one. `way`: 1, or -1 where the image is looked at backwards.
struct Taps {
    Divisor by_channels, by_s;
    int count, channels, S, W, line, way;

    __device__ __forceinline__ Place operator()(int number) const {
        const int tap = by_channels(number), r = by_s(tap), y = r * way, x = (tap - r * S) * way;
        return {(y * W + x) * line + number - tap * channels, number < count ? y : OUTSIDE, x};
    }
};

struct Image {
    const T* memory;
    int H, W;

    __device__ __forceinline__ const T* at(const Place& position, const Place& tap) const {
        const int y = position.y + tap.y, x = position.x + tap.x;
        const bool inside = (unsigned)y < (unsigned)H && (unsigned)x < (unsigned)W;
        return inside ? memory + position.offset + tap.offset : nullptr;
    }
};

// Positions by taps. The positions of a tile are looked up once for all its k's.
struct Patches : Image {
    static constexpr bool BY_K = true, VECTOR = A_VECTOR;
    const Place* positions;
    Taps taps;

    __device__ __forceinline__ Place row(int r) const { return positions[r]; }
    __device__ __forceinline__ Place depth(int k) const { return taps(k); }
};

// Taps by positions.
struct PatchesTurned : Image {
    static constexpr bool BY_K = false, VECTOR = A_VECTOR;
    Positions positions;
    Taps taps;
    int first;

    __device__ __forceinline__ Place row(int r) const { return taps(first + r); }
    __device__ __forceinline__ Place depth(int k) const { return positions(k); }
    __device__ __forceinline__ const T* at(const Place& tap, const Place& position) const {
        return Image::at(position, tap);
    }
};

// Filters (R,S,rows,line) with k = (r,s,number of the filter) along the line: every `step`-th tap from (r0,s0) on.
struct FiltersTurned {
    static constexpr bool BY_K = true, VECTOR = B_VECTOR;
    const T* memory;
    Taps taps;
    int S, r0, s0, step_y, step_x, line, first, rows;

    __device__ __forceinline__ int row(int r) const { return first + r; }
    __device__ __forceinline__ Place depth(int k) const {
        const int tap = taps.by_channels(k), r = taps.by_s(tap), s = tap - r * taps.S;
        const int at = ((r0 + r * step_y) * S + s0 + s * step_x) * rows;
        return {k - tap * taps.channels, k < taps.count ? at : -1, 0};
    }
    __device__ __forceinline__ const T* at(int row, const Place& depth) const {
        if (row >= rows || depth.y < 0) return nullptr;
        return memory + (int64)(depth.y + row) * line + depth.offset;
    }
};

// Rows of the result: positions (n,i,j) of images (N,H,W,line), every `step`-th from (y0,x0) on.
struct Pixels {
    Divisor by_j, by_i;
    int J, I, H, W, line, step_y, step_x, y0, x0;

    __device__ __forceinline__ int64 operator()(int row) const {
        const int rows = by_j(row), n = by_i(rows);
        const int y = (rows - n * I) * step_y + y0, x = (row - rows * J) * step_x + x0;
        return ((int64)(n * H + y) * W + x) * line;
    }
};

#if PASS == FORWARD || PASS == DGRAD
// Forward: y = relu(x * w + bias); x (N,H,W,groups*channels), w (R,S,channels,groups*columns), y (N,OH,OW,groups*columns).
// By the input: the same of dy with the filters turned, w (R,S,columns,groups*channels); with a stride, one phase of dx:
// every step-th pixel, of which every step-th tap knows. A grid of M = N * I * J positions, TR x TS taps.
//     grid: tiles of M, tiles of columns, groups * splits       parts (groups, splits, M, columns) with splits > 1
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) convolve(
    const T* x, const T* w, O* y, float* parts, const float* bias, int relu, int M, int I, int J, int H, int W,
    int groups, int channels, int columns, int step_y, int step_x, int off_y, int off_x, int TR, int TS, int S, int r0,
    int s0, int tap_y, int tap_x, int OH, int OW, int out_y, int out_x, int y0, int x0, int splits) {
    DYN_SMEM(T, room);
    __shared__ Place positions[BM];
    const int top = blockIdx.x * BM, left = blockIdx.y * BN, group = blockIdx.z / splits, part = blockIdx.z % splits;
    const int K = TR * TS * channels, line = groups * channels, wide = groups * columns;
    const Positions all{Divisor(J), Divisor(I), M, J, I, H, W, line, step_y, step_x, off_y, off_x};
    for (int r = threadIdx.x; r < BM; r += THREADS) positions[r] = all(top + r);
    __syncthreads();
    const Taps taps{Divisor(channels), Divisor(TS), K, channels, TS, W, line, PASS == FORWARD ? 1 : -1};
    const Patches patches{{x + group * channels, H, W}, positions, taps};
#if PASS == FORWARD
    const Matrix<false, B_VECTOR> filters{w + group * columns, wide, left, columns, K};
#else
    const FiltersTurned filters{w + group * channels, taps, S, r0, s0, tap_y, tap_x, line, left, columns};
#endif
    const int each = (K + splits * DEPTH - 1) / (splits * DEPTH) * DEPTH, begin = min(part * each, K);
    const int end = min(begin + each, K);
    if (splits > 1) {
        Sink<float, InOrder> sink{parts + blockIdx.z * (int64)M * columns, nullptr, 0, top, left, M, columns, {columns}};
        product(room, patches, filters, begin, end, sink);
    } else {
        const Pixels pixels{Divisor(J), Divisor(I), J, I, OH, OW, wide, out_y, out_x, y0, x0};
        Sink<O, Pixels> sink{y + group * columns, bias ? bias + group * columns : nullptr, relu, top, left, M, columns,
                             pixels};
        product(room, patches, filters, begin, end, sink);
    }
}
#else
// By the weights: dw (R,S,channels,groups*columns) from x (N,H,W,groups*channels) and dy (N,P,Q,groups*columns), summed
// over all M = N * P * Q positions.
//     grid: tiles of R * S * channels, tiles of columns, groups * splits       parts (groups, splits, rows, columns)
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) weigh(
    const T* x, const T* dy, O* dw, float* parts, const float* bias, int relu, int M, int P, int Q, int H, int W,
    int groups, int channels, int columns, int step_y, int step_x, int off_y, int off_x, int R, int S, int splits) {
    DYN_SMEM(T, room);
    const int top = blockIdx.x * BM, left = blockIdx.y * BN, group = blockIdx.z / splits, part = blockIdx.z % splits;
    const int rows = R * S * channels, line = groups * channels, wide = groups * columns;
    const Positions positions{Divisor(Q), Divisor(P), M, Q, P, H, W, line, step_y, step_x, off_y, off_x};
    const Taps taps{Divisor(channels), Divisor(S), rows, channels, S, W, line, 1};
    const PatchesTurned patches{{x + group * channels, H, W}, positions, taps, top};
    const Matrix<false, B_VECTOR> gradient{dy + group * columns, wide, left, columns, M};
    const int each = (M + splits * DEPTH - 1) / (splits * DEPTH) * DEPTH, begin = min(part * each, M);
    const int end = min(begin + each, M);
    if (splits > 1) {
        Sink<float, InOrder> sink{parts + blockIdx.z * (int64)rows * columns, nullptr, 0, top, left, rows, columns,
                                  {columns}};
        product(room, patches, gradient, begin, end, sink);
    } else {
        Sink<O, InOrder> sink{dw + group * columns, bias, relu, top, left, rows, columns, {wide}};
        product(room, patches, gradient, begin, end, sink);
    }
}
#endif
#endif
