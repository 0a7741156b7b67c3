// One tile of a matrix product a block: c (BM,BN) = a (BM,k) b (k,BN), under convolutions and dense layers alike.
//
// Chunks of 16 bytes go to shared memory by asynchronous copies, STAGES tiles deep, in the order in which they lie in
// memory: along k ("by k"), or along the rows of a or the columns of b. Chunks of a line change places with the line's
// number (a swizzle), so that what a warp reads at once lies in different banks. MATH says who multiplies:
//
//     FLOAT32   CUDA cores, 16 x 16 threads, each BM/16 x BN/16 sums       TF32, BF16   tensor cores, 2 x 2 warps
//
// An operand has row(r) of 0..ROWS-1, depth(k), at(row, depth): the address, or null outside; `memory`, an address that
// may always be named; BY_K; VECTOR: whether a chunk is 16 bytes in a row, all of them inside or outside. A sink has
// put(row, column, sums of a few columns).
#pragma once
#include "device.cuh"
#include "mma.cuh"

#define FLOAT32 0
#define TF32 1
#define BF16 2

constexpr int CHUNK = 16 / sizeof(T);   // numbers
constexpr int CHUNKS = 8;               // of a line by k
constexpr int DEPTH = CHUNKS * CHUNK;   // k's of a tile
constexpr int STAGES = 3;
constexpr int THREADS = MATH == FLOAT32 ? 256 : 128;
// On a multiprocessor: what one waits for, the others hide. Shared memory, or registers, are enough for no more.
constexpr int BLOCKS = MATH == FLOAT32 ? (BM > 64 ? 2 : 3) : 6 - (BM + BN) / 64;
constexpr int TILE = (BM + BN) * DEPTH; // numbers of a stage
constexpr unsigned BAND = 8;            // tiles of rows that go through all columns before the next ones do

// Where a chunk lies: of line `line` by k, else of the k'th line of so many numbers.
template <bool BY_K, int ROWS> __device__ __forceinline__ int spot(int line, int chunk) {
    if (BY_K) return line * DEPTH + (chunk ^ line % CHUNKS) * CHUNK;
    int turn = MATH == BF16 ? line % 8 : MATH == TF32 ? line % 4 * 2 : 0;
    return line * ROWS + (chunk ^ turn) * CHUNK;
}

__device__ __forceinline__ void copy_one(float* to, const float* from, const float* memory) {
    cp_async4(to, from ? from : memory, from);
}
__device__ __forceinline__ void copy_one(bfloat16* to, const bfloat16* from, const bfloat16*) {
    *to = from ? *from : bfloat16{0};  // two bytes are too few for an asynchronous copy
}

// Begin to copy the tile of an operand at k0; chunk by chunk, or number by number where they do not lie in 16 bytes.
template <int ROWS, class Operand> __device__ __forceinline__ void fill(T* tile, const Operand& from, int k0) {
    constexpr bool BY_K = Operand::BY_K;
    constexpr int WIDE = BY_K ? CHUNKS : ROWS / CHUNK, LINES = BY_K ? ROWS : DEPTH, STEP = THREADS / WIDE;
    const int chunk = threadIdx.x % WIDE, first = chunk * CHUNK;
    if constexpr (Operand::VECTOR) {
        auto along = [&] { if constexpr (BY_K) return from.depth(k0 + first); else return from.row(first); }();
#pragma unroll
        for (int i = 0; i < LINES / STEP; i++) {
            int line = threadIdx.x / WIDE + i * STEP;
            const T* p;
            if constexpr (BY_K) p = from.at(from.row(line), along);
            else p = from.at(along, from.depth(k0 + line));
            T* to = tile + spot<BY_K, ROWS>(line, chunk);
            cp_async16(to, p ? p : from.memory, p);
        }
    } else {
#pragma unroll 1
        for (int i = 0; i < LINES / STEP; i++) {
            int line = threadIdx.x / WIDE + i * STEP;
            T* to = tile + spot<BY_K, ROWS>(line, chunk);
#pragma unroll
            for (int e = 0; e < CHUNK; e++) {
                int row = BY_K ? line : first + e, k = BY_K ? first + e : line;
                copy_one(to + e, from.at(from.row(row), from.depth(k0 + k)), from.memory);
            }
        }
    }
}

#if MATH == FLOAT32
constexpr int TM = BM / 16, TN = BN / 16;

// The i'th of a thread's rows or columns: those of one chunk side by side, or 16 apart where chunks go by k.
template <bool BY_K> __device__ __forceinline__ int mine(int thread, int i) {
    return BY_K ? thread + 16 * i : i / CHUNK * 64 + thread * CHUNK + i % CHUNK;
}

// The numbers of four k's, chunk `chunk`, of each of a thread's lines.
template <bool BY_K, int ROWS, int COUNT>
__device__ __forceinline__ void fragment(float (&into)[COUNT][CHUNK], const float* tile, int thread, int chunk) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        if (BY_K) {
            load<CHUNK>(into[i], tile + spot<true, ROWS>(mine<true>(thread, i), chunk));
        } else if (i % CHUNK == 0) {
#pragma unroll
            for (int k = 0; k < CHUNK; k++) {
                float side[CHUNK];
                load<CHUNK>(side, tile + spot<false, ROWS>(chunk * CHUNK + k, i / CHUNK * 64 / CHUNK + thread));
#pragma unroll
                for (int e = 0; e < CHUNK; e++) into[i + e][k] = side[e];
            }
        }
    }
}

template <bool A_DEEP, bool B_DEEP> struct Sums {
    float of[TM][TN];

    __device__ __forceinline__ Sums() {
#pragma unroll
        for (int i = 0; i < TM * TN; i++) of[i / TN][i % TN] = 0.f;
    }

    __device__ __forceinline__ void add(const float* a, const float* b) {
        const int x = threadIdx.x % 16, y = threadIdx.x / 16;
#pragma unroll 1
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            float left[TM][CHUNK];
            fragment<A_DEEP, BM>(left, a, y, chunk);
#pragma unroll
            for (int part = 0; part < TN / CHUNK; part++) {  // few columns at a time: registers are scarce
                float right[CHUNK][CHUNK];
                columns(right, b, x, part, chunk);
#pragma unroll
                for (int k = 0; k < CHUNK; k++)
#pragma unroll
                    for (int i = 0; i < TM; i++)
#pragma unroll
                        for (int j = 0; j < CHUNK; j++)
                            of[i][part * CHUNK + j] += left[i][k] * right[j][k];
            }
        }
    }

    __device__ __forceinline__ static void columns(float (&right)[CHUNK][CHUNK], const float* b, int x, int part,
                                                   int chunk) {
#pragma unroll
        for (int j = 0; j < CHUNK; j++) {
            float line[CHUNK];
            if (B_DEEP) {
                load<CHUNK>(line, b + spot<true, BN>(mine<true>(x, part * CHUNK + j), chunk));
#pragma unroll
                for (int k = 0; k < CHUNK; k++) right[j][k] = line[k];
            } else {
                load<CHUNK>(line, b + spot<false, BN>(chunk * CHUNK + j, part * 64 / CHUNK + x));
#pragma unroll
                for (int e = 0; e < CHUNK; e++) right[e][j] = line[e];
            }
        }
    }

    template <class Sink> __device__ __forceinline__ void pour(const Sink& sink) const {
        const int x = threadIdx.x % 16, y = threadIdx.x / 16;
#pragma unroll
        for (int i = 0; i < TM; i++)
#pragma unroll
            for (int part = 0; part < TN / CHUNK; part++) {
                const int row = mine<A_DEEP>(y, i);
                if (B_DEEP) {
#pragma unroll
                    for (int j = 0; j < CHUNK; j++) {
                        float one[1] = {of[i][part * CHUNK + j]};
                        sink.put(row, mine<true>(x, part * CHUNK + j), one);
                    }
                } else {
                    float some[CHUNK];
#pragma unroll
                    for (int j = 0; j < CHUNK; j++) some[j] = of[i][part * CHUNK + j];
                    sink.put(row, mine<false>(x, part * CHUNK), some);
                }
            }
    }
};
#else
constexpr int WM = BM / 2, WN = BN / 2, TM = WM / 16, TN = WN / 8;  // of a warp, and its tiles of 16 x 8 sums

// As the tensor core takes a register of numbers.
__device__ __forceinline__ unsigned operand(unsigned bits) {
    return MATH == TF32 ? to_tf32(__uint_as_float(bits)) : bits;
}

// Two times two quarters of 8 rows (or columns) and a chunk of k: 0 the first rows and k, 1 the next rows if SIDE_FIRST,
// else the next k, 2 the other, 3 both. By k, matrices of 16-byte lines are what ldmatrix reads, whatever is in the bytes.
template <bool BY_K, int ROWS, bool SIDE_FIRST>
__device__ __forceinline__ void quarters(unsigned (&r)[4], const T* tile, int row, int step) {
    const int lane = threadIdx.x % 32, quarter = lane / 8, line = lane % 8;
    const int down = SIDE_FIRST ? quarter % 2 : quarter / 2, deep = SIDE_FIRST ? quarter / 2 : quarter % 2;
    if constexpr (BY_K) {
        ldmatrix_x4(r, tile + spot<true, ROWS>(row + down * 8 + line, 2 * step + deep));
    } else if constexpr (MATH == BF16) {
        ldmatrix_x4_trans(r, tile + spot<false, ROWS>((2 * step + deep) * 8 + line, row / 8 + down));
    } else {
#pragma unroll
        for (int q = 0; q < 4; q++) {
            int side = row + (SIDE_FIRST ? q % 2 : q / 2) * 8 + lane / 4;
            int k = (2 * step + (SIDE_FIRST ? q / 2 : q % 2)) * 4 + lane % 4;
            r[q] = __float_as_uint(to_float(tile[spot<false, ROWS>(k, side / CHUNK) + side % CHUNK]));
        }
    }
#pragma unroll
    for (int q = 0; q < 4; q++) r[q] = operand(r[q]);
}

__device__ __forceinline__ void add_product(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#if MATH == BF16
    mma_m16n8k16_bf16(d, a, b);
#else
    mma_m16n8k8_tf32(d, a, b);
#endif
}

template <bool A_DEEP, bool B_DEEP> struct Sums {
    float of[TM][TN][4];

    __device__ __forceinline__ Sums() {
#pragma unroll
        for (int i = 0; i < TM * TN * 4; i++) of[i / 4 / TN][i / 4 % TN][i % 4] = 0.f;
    }

    __device__ __forceinline__ void add(const T* a, const T* b) {
        const int warp = threadIdx.x / 32, top = warp / 2 * WM, left = warp % 2 * WN;
#pragma unroll
        for (int step = 0; step < CHUNKS / 2; step++) {
            unsigned rows[TM][4], columns[TN / 2][4];
#pragma unroll
            for (int i = 0; i < TM; i++) quarters<A_DEEP, BM, true>(rows[i], a, top + 16 * i, step);
#pragma unroll
            for (int j = 0; j < TN / 2; j++) quarters<B_DEEP, BN, false>(columns[j], b, left + 16 * j, step);
#pragma unroll
            for (int i = 0; i < TM; i++)
#pragma unroll
                for (int j = 0; j < TN; j++)
                    add_product(of[i][j], rows[i], {columns[j / 2][j % 2 * 2], columns[j / 2][j % 2 * 2 + 1]});
        }
    }

    template <class Sink> __device__ __forceinline__ void pour(const Sink& sink) const {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        const int top = warp / 2 * WM + lane / 4, left = warp % 2 * WN + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < TM; i++)
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int j = 0; j < TN; j++) {
                    float two[2] = {of[i][j][2 * half], of[i][j][2 * half + 1]};
                    sink.put(top + 16 * i + 8 * half, left + 8 * j, two);
                }
    }
};
#endif

// Sums over k in [k_begin, k_end), which begins with a tile, into the sink. `scratch`: STAGES * TILE numbers of shared
// memory.
template <class A, class B, class Sink>
__device__ __forceinline__ void product(T* scratch, const A& a, const B& b, int k_begin, int k_end, const Sink& sink) {
    Sums<A::BY_K, B::BY_K> sums;
    const int tiles = k_end > k_begin ? (k_end - k_begin + DEPTH - 1) / DEPTH : 0;
    auto begin = [&](int number) {
        if (number < tiles) {
            T* tile = scratch + number % STAGES * TILE;
            fill<BM>(tile, a, k_begin + number * DEPTH);
            fill<BN>(tile + BM * DEPTH, b, k_begin + number * DEPTH);
        }
        cp_async_commit();
    };
#pragma unroll
    for (int number = 0; number < STAGES - 1; number++) begin(number);
    for (int number = 0; number < tiles; number++) {
        cp_async_wait<STAGES - 2>();
        __syncthreads();  // the tile is there for all, and all are done with the one before, whose memory is next
        begin(number + STAGES - 1);
        const T* tile = scratch + number % STAGES * TILE;
        sums.add(tile, tile + BM * DEPTH);
    }
    cp_async_wait<0>();
    sums.pour(sink);
}

// What a block makes: a tile of c (rows, columns) of one of the products, over a part of its k's, number `part` of all
// products' parts. Blocks that run at the same time read much the same, which is then in L2.
//     grid: tiles, parts of a product, products
struct Task {
    int top, left, product, part, begin, end;

    __device__ __forceinline__ Task(int rows, int columns, int depths) {
        const unsigned down = (rows + BM - 1) / BM, across = (columns + BN - 1) / BN;
        const unsigned above = blockIdx.x / (BAND * across) * BAND, high = min(BAND, down - above);
        const unsigned tile = blockIdx.x - above * across;
        top = (above + tile % high) * BM, left = tile / high * BN;
        product = blockIdx.z, part = product * gridDim.y + blockIdx.y;
        const int each = (depths + gridDim.y * DEPTH - 1) / (gridDim.y * DEPTH) * DEPTH;
        begin = min(blockIdx.y * each, depths), end = min(begin + each, depths);
    }
};

// A matrix: number (row, k) lies at row * line + k by k, else at k * line + row.
template <bool K_FIRST, bool WHOLE> struct Matrix {
    static constexpr bool BY_K = K_FIRST, VECTOR = WHOLE;
    const T* memory;
    int64 line;
    int first, rows, depths;  // the tile's first row; how many there are

    __device__ __forceinline__ int row(int r) const { return first + r; }
    __device__ __forceinline__ int depth(int k) const { return k; }
    __device__ __forceinline__ const T* at(int row, int k) const {
        if (row >= rows || k >= depths) return nullptr;
        return memory + (BY_K ? row * line + k : k * line + row);
    }
};

// Rows of a matrix one after the other.
struct InOrder {
    int64 line;
    __device__ __forceinline__ int64 operator()(int row) const { return row * line; }
};

// Writes a tile of y (rows, columns), whose rows begin where `rows_at` says: y = sums + bias, clipped at zero if relu.
template <class Result, class RowsAt> struct Sink {
    Result* y;
    const float* bias;  // or null
    int relu, top, left, rows, columns;
    RowsAt rows_at;

    template <int N> __device__ __forceinline__ void put(int row, int column, const float (&sums)[N]) const {
        row += top, column += left;
        if (row >= rows || column >= columns) return;
        float v[N];
#pragma unroll
        for (int e = 0; e < N; e++) {
            v[e] = sums[e] + (bias && column + e < columns ? bias[column + e] : 0.f);
            v[e] = relu && v[e] < 0.f ? 0.f : v[e];
        }
        Result* to = y + rows_at(row) + column;
        if (column + N <= columns && reinterpret_cast<uint64>(to) % (N * sizeof(Result)) == 0) {
            store<N>(to, v);
        } else {
#pragma unroll
            for (int e = 0; e < N; e++)
                if (column + e < columns) to[e] = as<Result>(v[e]);
        }
    }
};

// y (rows, columns) of each group, from the parts of its sums: ((p0 + p1) + p2) + ..., the same bits every time.
//     parts (groups, splits, rows, columns)   y (rows, groups * columns)
extern "C" __global__ void __launch_bounds__(256) sum_parts(const float* parts, O* y, const float* bias, int relu,
                                                            int rows, int columns, int splits) {
    const unsigned size = rows * columns;  // far below 2^32: larger products are not cut into parts
    const float* from = parts + (int64)blockIdx.y * splits * size;
    for (unsigned i = first_thread(); i < size; i += all_threads()) {
        float sum = from[i];
        for (int part = 1; part < splits; part++) sum += from[(int64)part * size + i];
        const unsigned row = i / columns, column = blockIdx.y * columns + i - row * columns;
        sum += bias ? bias[column] : 0.f;
        y[(int64)row * gridDim.y * columns + column] = as<O>(relu && sum < 0.f ? 0.f : sum);
    }
}
