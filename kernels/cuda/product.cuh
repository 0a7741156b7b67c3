// One tile of a matrix product a block: c (BM,BN) = a (BM,k) b (k,BN), under convolutions and dense layers alike.
//
// Chunks of 16 bytes go to shared memory by asynchronous copies, STAGES tiles deep, in the order in which they lie in
// memory: along k ("by k"), or along the rows of a or the columns of b. Chunks of a line change places with the line's
// number (a swizzle), so that what a warp reads at once lies in different banks. MATH says who multiplies:
//
//     FLOAT32   CUDA cores, 16 x 16 threads, each BM/16 x BN/16 sums       TF32, BF16   tensor cores, 2 x 2 warps
//     BF16 with WGMMA   tensor cores that read shared memory by themselves, for 4 warps together
//
// An operand has row(r) of 0..ROWS-1, depth(k), at(row, depth), a Source; BY_K; VECTOR: whether a chunk is 16 bytes in a
// row, all of them inside or outside. A sink has put(row, column, sums of a few columns), and for results of two bytes
// also what that is made of: finish(column, sums) and write(row, column, 16 bytes).
#pragma once
#include "device.cuh"
#include "mma.cuh"

#define FLOAT32 0
#define TF32 1
#define BF16 2
#ifndef WGMMA
#define WGMMA 0
#endif
#if WGMMA
#include "wgmma.cuh"
#endif

constexpr int CHUNK = 16 / sizeof(T);   // numbers
constexpr int CHUNKS = 8;               // of a line by k
constexpr int DEPTH = CHUNKS * CHUNK;   // k's of a tile
constexpr int STAGES = 3;
constexpr int THREADS = MATH == FLOAT32 ? 256 : 128;
// On a multiprocessor: what one waits for, the others hide. Shared memory, or registers, are enough for no more.
constexpr int BLOCKS = MATH == FLOAT32 ? (BM > 64 ? 2 : 3) : 6 - (BM + BN) / 64 - !(A_VECTOR && B_VECTOR);
constexpr int TILE = (BM + BN) * DEPTH; // numbers of a stage
constexpr unsigned BAND = 8;            // tiles of rows that go through all columns before the next ones do

// Where a chunk lies: of line `line` by k, else of the k'th line of so many numbers, for BF16 64 of them side by side.
template <bool BY_K, int ROWS> __device__ __forceinline__ int spot(int line, int chunk) {
    if (BY_K) return line * DEPTH + (chunk ^ line % CHUNKS) * CHUNK;
    if (MATH == BF16) return (chunk / CHUNKS * DEPTH + line) * 64 + (chunk % CHUNKS ^ line % CHUNKS) * CHUNK;
    int turn = MATH == TF32 ? line % 4 * 2 : 0;
    return line * ROWS + (chunk ^ turn) * CHUNK;
}

// Where a number lies; zero stands for those outside, whose address is anything.
struct Source {
    const T* at;
    bool inside;
};

__device__ __forceinline__ void copy_one(float* to, const float* from, bool inside) { cp_async4(to, from, inside); }
__device__ __forceinline__ void copy_one(bfloat16* to, const bfloat16* from, bool inside) {
    *to = inside ? *from : bfloat16{0};  // two bytes are too few for an asynchronous copy
}

// What a thread copies of an operand's tiles: chunk by chunk, or number by number where they do not lie in 16 bytes.
template <int ROWS, class Operand> struct Copied {
    static constexpr bool BY_K = Operand::BY_K;
    static constexpr int WIDE = BY_K ? CHUNKS : ROWS / CHUNK, STEP = THREADS / WIDE, LINES = (BY_K ? ROWS : DEPTH) / STEP;
    static constexpr bool KEPT = Operand::VECTOR && MATH != FLOAT32;  // its 128 registers have no room for more

    const Operand& from;
    decltype(from.row(0)) rows[KEPT ? LINES : 1];  // the same in every tile

    __device__ __forceinline__ explicit Copied(const Operand& operand) : from(operand) {
#pragma unroll
        for (int i = 0; KEPT && i < LINES; i++) rows[i] = row(i);
    }

    __device__ __forceinline__ auto row(int i) const { return from.row(BY_K ? line(i) : first()); }

    __device__ __forceinline__ static int first() { return threadIdx.x % WIDE * CHUNK; }
    __device__ __forceinline__ static int line(int i) { return threadIdx.x / WIDE + i * STEP; }
    __device__ __forceinline__ static T* to(T* tile, int i) {
        return tile + spot<BY_K, ROWS>(line(i), threadIdx.x % WIDE);
    }

    // Begin to copy the tile at k0.
    __device__ __forceinline__ void fill(T* tile, int k0) const {
        if constexpr (Operand::VECTOR) {
            const auto along = from.depth(k0 + (BY_K ? first() : line(0)));
#pragma unroll
            for (int i = 0; i < LINES; i++) {
                const Source source = from.at(KEPT ? rows[i] : row(i),
                                              BY_K || i == 0 ? along : from.depth(k0 + line(i)));
                cp_async16(to(tile, i), source.at, source.inside);
            }
        } else {
#pragma unroll 1
            for (int i = 0; i < LINES; i++) {
#pragma unroll
                for (int e = 0; e < CHUNK; e++) {
                    const int row = BY_K ? line(i) : first() + e, k = BY_K ? first() + e : line(i);
                    const Source source = from.at(from.row(row), from.depth(k0 + k));
                    copy_one(to(tile, i) + e, source.at, source.inside);
                }
            }
        }
    }
};

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

    // visit(row, column, sums of that column and the next ones) for all sums of this thread.
    template <class Visit> __device__ __forceinline__ void each(Visit visit) const {
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
                        visit(row, mine<true>(x, part * CHUNK + j), one);
                    }
                } else {
                    float some[CHUNK];
#pragma unroll
                    for (int j = 0; j < CHUNK; j++) some[j] = of[i][part * CHUNK + j];
                    visit(row, mine<false>(x, part * CHUNK), some);
                }
            }
    }
};
#elif WGMMA
constexpr int TM = BM / 64;

template <bool A_DEEP, bool B_DEEP> struct Sums {
    float of[TM][BN / 8][4];

    __device__ __forceinline__ Sums() {
#pragma unroll
        for (int i = 0; i < TM * BN / 2; i++) of[i / (BN / 2)][i / 4 % (BN / 8)][i % 4] = 0.f;
    }

    // Begin to add a tile; wait() ends it.
    __device__ __forceinline__ void add(const T* a, const T* b) {
        constexpr int SIDE = 64 * DEPTH;  // numbers of 64 rows or columns, either way
        constexpr int A_STEP = A_DEEP ? 16 : 16 * 64, B_STEP = B_DEEP ? 16 : 16 * 64;
        wgmma_begin();
#pragma unroll
        for (int step = 0; step < DEPTH / 16; step++) {
            const uint64 columns = descriptor(b + step * B_STEP, SIDE * sizeof(T));
#pragma unroll
            for (int i = 0; i < TM; i++)
                Wgmma<BN>::template add<!A_DEEP, !B_DEEP>(
                    of[i], descriptor(a + i * SIDE + step * A_STEP, SIDE * sizeof(T)), columns);
        }
        wgmma_commit();
    }

    __device__ __forceinline__ void wait() {
        wgmma_wait();
#pragma unroll
        for (int i = 0; i < TM; i++)
#pragma unroll
            for (int j = 0; j < BN / 8; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) asm volatile("" : "+f"(of[i][j][e])::"memory");
    }

    template <class Visit> __device__ __forceinline__ void each(Visit visit) const {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < TM; i++)
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int j = 0; j < BN / 8; j++) {
                    float two[2] = {of[i][j][2 * half], of[i][j][2 * half + 1]};
                    visit(64 * i + 16 * warp + lane / 4 + 8 * half, 8 * j + lane % 4 * 2, two);
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

    template <class Visit> __device__ __forceinline__ void each(Visit visit) const {
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        const int top = warp / 2 * WM + lane / 4, left = warp % 2 * WN + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < TM; i++)
#pragma unroll
            for (int half = 0; half < 2; half++)
#pragma unroll
                for (int j = 0; j < TN; j++) {
                    float two[2] = {of[i][j][2 * half], of[i][j][2 * half + 1]};
                    visit(top + 16 * i + 8 * half, left + 8 * j, two);
                }
    }
};
#endif

template <class Tile, class Sink> __device__ __forceinline__ void pour(const Tile& sums, const Sink& sink, float*, T*) {
    sums.each([&](int row, int column, const auto& some) { sink.put(row, column, some); });
}

// Two bytes a number, and few of them in a row with each thread: through shared memory, so that 16 bytes go at once.
template <class Tile, class Sink> __device__ __forceinline__ void pour(const Tile& sums, const Sink& sink, bfloat16*,
                                                                          bfloat16* tile) {
    constexpr int PACK = 8, ACROSS = BN / PACK;
    auto place = [](int row, int pack) { return row * BN + (pack ^ row % 8) * PACK; };
    __syncthreads();  // nobody needs the operands any more
    sums.each([&](int row, int column, auto& two) {
        sink.finish(column, two);
        store(tile + place(row, column / PACK) + column % PACK, two);
    });
    __syncthreads();
#pragma unroll
    for (int i = 0; i < BM * ACROSS / THREADS; i++) {
        const int row = i * (THREADS / ACROSS) + threadIdx.x / ACROSS, pack = threadIdx.x % ACROSS;
        sink.write(row, pack * PACK, *reinterpret_cast<const Pack<bfloat16, PACK>*>(tile + place(row, pack)));
    }
}

// Sums over k in [k_begin, k_end), which begins with a tile, into the sink. `scratch`: STAGES * TILE numbers of shared
// memory, with WGMMA ALIGNMENT bytes more.
template <class A, class B, class Sink>
__device__ __forceinline__ void product(T* scratch, const A& a, const B& b, int k_begin, int k_end, const Sink& sink) {
    Sums<A::BY_K, B::BY_K> sums;
#if WGMMA
    scratch += (-shared_address(scratch) & (ALIGNMENT - 1)) / sizeof(T);
#endif
    const Copied<BM, A> left(a);
    const Copied<BN, B> right(b);
    const int tiles = k_end > k_begin ? (k_end - k_begin + DEPTH - 1) / DEPTH : 0;
    auto begin = [&](int number) {
        if (number < tiles) {
            T* tile = scratch + number % STAGES * TILE;
            left.fill(tile, k_begin + number * DEPTH);
            right.fill(tile + BM * DEPTH, k_begin + number * DEPTH);
        }
        cp_async_commit();
    };
#pragma unroll
    for (int number = 0; number < STAGES - 1; number++) begin(number);
    for (int number = 0; number < tiles; number++) {
        const T* tile = scratch + number % STAGES * TILE;
        cp_async_wait<STAGES - 2>();
#if WGMMA
        wgmma_written();
        sums.wait();
        __syncthreads();  // the tile is there for all, and all are done with the one before, whose memory is next
        sums.add(tile, tile + BM * DEPTH);
        begin(number + STAGES - 1);
    }
    sums.wait();
#else
        __syncthreads();  // the tile is there for all, and all are done with the one before, whose memory is next
        begin(number + STAGES - 1);
        sums.add(tile, tile + BM * DEPTH);
    }
#endif
    cp_async_wait<0>();
    pour(sums, sink, sink.y, scratch);
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

    struct Part {
        int64 offset;
        bool inside;
    };

    __device__ __forceinline__ Part row(int r) const {
        r += first;
        return {BY_K ? r * line : r, r < rows};
    }
    __device__ __forceinline__ Part depth(int k) const { return {BY_K ? k : k * line, k < depths}; }
    __device__ __forceinline__ Source at(const Part& row, const Part& depth) const {
        return {memory + (row.offset + depth.offset), row.inside && depth.inside};
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

    template <int N> __device__ __forceinline__ void finish(int column, float (&v)[N]) const {
        column += left;
#pragma unroll
        for (int e = 0; e < N; e++) {
            v[e] += bias && column + e < columns ? bias[column + e] : 0.f;
            v[e] = relu && v[e] < 0.f ? 0.f : v[e];
        }
    }

    template <int N> __device__ __forceinline__ void write(int row, int column, const Pack<Result, N>& pack) const {
        row += top, column += left;
        if (row >= rows || column >= columns) return;
        Result* to = y + rows_at(row) + column;
        if (column + N <= columns && reinterpret_cast<uint64>(to) % (N * sizeof(Result)) == 0) {
            ::put(to, pack);
        } else {
#pragma unroll
            for (int e = 0; e < N; e++)
                if (column + e < columns) to[e] = pack.at[e];
        }
    }

    template <int N> __device__ __forceinline__ void put(int row, int column, const float (&sums)[N]) const {
        float v[N];
        Pack<Result, N> pack;
#pragma unroll
        for (int e = 0; e < N; e++) v[e] = sums[e];
        finish(column, v);
#pragma unroll
        for (int e = 0; e < N; e++) pack.at[e] = as<Result>(v[e]);
        write(row, column, pack);
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
