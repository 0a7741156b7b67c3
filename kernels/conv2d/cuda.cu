// Convolution as a product whose left matrix is never made: its numbers are fetched from the image where they lie.
#define FORWARD 0
#define DGRAD 1
#define WGRAD 2
#define BIAS 3

#if PASS == BIAS
#include "device.cuh"
#include "row_reduction.cuh"

// By the bias: sums of dy (M,K) over its rows, a strip and a piece of them each block; see row_reduction.cuh.
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
    int by;
    unsigned factor, shift;
    __device__ __forceinline__ int operator()(int n) const { return (__umulhi(n, factor) + n) >> shift; }
};

// A convolution: M = N * I * J positions of R x S taps. cuda.py has the numbers in this order.
struct Shape {
    Divisor J, I, channels, S;
    int M, H, W, groups, columns, step_y, step_x, off_y, off_x, apart_y, apart_x, R;
};

// Its taps are every so many-th of a filter, its results every so many-th of an image.
struct Phase : Shape {
    int filter_S, r0, s0, tap_y, tap_x, OH, OW, out_y, out_x, y0, x0;
};

// Where a tap meets the image for one position of the filter: relative to position (0,0) of tap (0,0).
struct __align__(16) Place {
    int offset, y, x;
};

// Positions of the filter: number -> (n,i,j) -> the place in images (N,H,W,line) where its first tap lies.
struct Positions {
    Divisor J, I;
    int count, H, W, line, step_y, step_x, off_y, off_x;

    __device__ __forceinline__ Place operator()(int number) const {
        const int rows = J(number), n = I(rows);
        const int y = (rows - n * I.by) * step_y + off_y, x = (number - rows * J.by) * step_x + off_x;
        return {((n * H + y) * W + x) * line, number < count ? y : -2 * OUTSIDE, x};
    }
};

// Taps: number -> (r,s,c) -> how far from the first one. From each to the next it is `apart`, where the image is looked at
// backwards a negative number.
struct Taps {
    Divisor channels, S;
    int count, W, line, apart_y, apart_x;

    __device__ __forceinline__ Place operator()(int number) const {
        const int tap = channels(number), r = S(tap), y = r * apart_y, x = (tap - r * S.by) * apart_x;
        return {(y * W + x) * line + number - tap * channels.by, number < count ? y : OUTSIDE, x};
    }
};

struct Image {
    const T* memory;
    int H, W;

    __device__ __forceinline__ Source at(const Place& position, const Place& tap) const {
        const int y = position.y + tap.y, x = position.x + tap.x;
        return {memory + (position.offset + tap.offset), (unsigned)y < (unsigned)H && (unsigned)x < (unsigned)W};
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
    __device__ __forceinline__ Source at(const Place& tap, const Place& position) const {
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
        const int tap = taps.channels(k), r = taps.S(tap), s = tap - r * taps.S.by;
        const int at = ((r0 + r * step_y) * S + s0 + s * step_x) * rows;
        return {k - tap * taps.channels.by, k < taps.count ? at : -1, 0};
    }
    __device__ __forceinline__ Source at(int row, const Place& depth) const {
        return {memory + ((int64)(depth.y + row) * line + depth.offset), row < rows && depth.y >= 0};
    }
};

// Rows of the result: positions (n,i,j) of images (N,H,W,line), every `step`-th from (y0,x0) on.
struct Pixels {
    Divisor J, I;
    int H, W, line, step_y, step_x, y0, x0;

    __device__ __forceinline__ int64 operator()(int row) const {
        const int rows = J(row), n = I(rows);
        const int y = (rows - n * I.by) * step_y + y0, x = (row - rows * J.by) * step_x + x0;
        return ((int64)(n * H + y) * W + x) * line;
    }
};

#if PASS == FORWARD || PASS == DGRAD
// Forward: y = relu(x * w + bias); x (N,H,W,groups*channels), w (R,S,channels,groups*columns), y (N,OH,OW,groups*columns).
// By the input: the same of dy with the filters transposed, w (R,S,columns,groups*channels); with a stride, for one
// phase of dx:
// every step-th pixel, of which every step-th tap knows.
//     grid: see Task       parts (groups, splits, M, columns), or null
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) convolve(
    const T* x, const T* w, O* y, float* parts, const float* bias, int relu, Phase s) {
    DYN_SMEM(T, scratch);
    __shared__ Place positions[BM];
    const int M = s.M, K = s.R * s.S.by * s.channels.by, columns = s.columns;
    const int line = s.groups * s.channels.by, wide = s.groups * columns;
    const Task task(M, columns, K);
    const Positions all{s.J, s.I, M, s.H, s.W, line, s.step_y, s.step_x, s.off_y, s.off_x};
    for (int r = threadIdx.x; r < BM; r += THREADS) positions[r] = all(task.top + r);
    __syncthreads();
    const Taps taps{s.channels, s.S, K, s.W, line, s.apart_y, s.apart_x};
    const int from = task.product * s.channels.by, to = task.product * columns;
    const Patches patches{{x + from, s.H, s.W}, positions, taps};
#if PASS == FORWARD
    const Matrix<false, B_VECTOR> filters{w + to, wide, task.left, columns, K};
#else
    const FiltersTurned filters{w + from, taps, s.filter_S, s.r0, s.s0, s.tap_y, s.tap_x, line, task.left, columns};
#endif
    if (parts) {
        Sink<float, InOrder> sink{parts + task.part * (int64)M * columns, nullptr, 0, task.top, task.left, M, columns,
                                  {columns}};
        product(scratch, patches, filters, task.begin, task.end, sink);
    } else {
        const Pixels pixels{s.J, s.I, s.OH, s.OW, wide, s.out_y, s.out_x, s.y0, s.x0};
        Sink<O, Pixels> sink{y + to, bias ? bias + to : nullptr, relu, task.top, task.left, M, columns, pixels};
        product(scratch, patches, filters, task.begin, task.end, sink);
    }
}
#else
// By the weights: dw (R,S,channels,groups*columns) from x (N,H,W,groups*channels) and dy (N,I,J,groups*columns), summed
// over all M positions.
//     grid: see Task       parts (groups, splits, rows, columns), or null
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) weigh(
    const T* x, const T* dy, O* dw, float* parts, const float* bias, int relu, Shape s) {
    DYN_SMEM(T, scratch);
    const int M = s.M, rows = s.R * s.S.by * s.channels.by, columns = s.columns;
    const int line = s.groups * s.channels.by, wide = s.groups * columns;
    const Task task(rows, columns, M);
    const Positions positions{s.J, s.I, M, s.H, s.W, line, s.step_y, s.step_x, s.off_y, s.off_x};
    const Taps taps{s.channels, s.S, rows, s.W, line, s.apart_y, s.apart_x};
    const PatchesTurned patches{{x + task.product * s.channels.by, s.H, s.W}, positions, taps, task.top};
    const Matrix<false, B_VECTOR> gradient{dy + task.product * columns, wide, task.left, columns, M};
    if (parts) {
        Sink<float, InOrder> sink{parts + task.part * (int64)rows * columns, nullptr, 0, task.top, task.left, rows,
                                  columns, {columns}};
        product(scratch, patches, gradient, task.begin, task.end, sink);
    } else {
        Sink<O, InOrder> sink{dw + task.product * columns, bias, relu, task.top, task.left, rows, columns, {wide}};
        product(scratch, patches, gradient, task.begin, task.end, sink);
    }
}
#endif
#endif
