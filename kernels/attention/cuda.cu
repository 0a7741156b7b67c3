// Causal attention, forward and backward: a block does some rows of one head of one sequence (Dao 2023).
//
// It keeps these rows, of queries or of keys, and walks over the others, the columns of the scores, COLUMNS at a time;
// asynchronous copies fetch the next ones while it computes.
//
//     T  float or bfloat16   MATH  FLOAT32, TF32 or BF16   D_PADDED  room for the D numbers of a row, a multiple of 16
#include "warp.cuh"

constexpr int CHUNKS = D_PADDED / CHUNK;  // of a row
constexpr float LOG2E = 1.44269504f, LN2 = 0.693147181f, UNSEEN = -1e38f;

struct Sizes {
    int tokens, heads, D, whole;  // whole: rows in memory are chunks of 16 bytes
};

// copy(row, d) for the chunks that this thread moves, of COUNT rows.
template <int COUNT, class Copy> __device__ __forceinline__ void for_chunks(Copy copy) {
#pragma unroll 1  // registers are scarce
    for (int i = threadIdx.x; i < COUNT * CHUNKS; i += THREADS) copy(i / CHUNKS, i % CHUNKS * CHUNK);
}

// Round the rows that this thread has fetched, if the tensor core wants that.
template <int COUNT> __device__ __forceinline__ void as_operands(T* rows) {
#if MATH == TF32
    for_chunks<COUNT>([&](int row, int d) {
        float chunk[CHUNK];
        load(chunk, rows + row * PITCH + d);
#pragma unroll
        for (int e = 0; e < CHUNK; e++) chunk[e] = __uint_as_float(to_tf32(chunk[e]));
        store(rows + row * PITCH + d, chunk);
    });
#endif
}

__device__ __forceinline__ void copy_one(float* to, const float* from, bool there) { cp_async4(to, from, there); }
__device__ __forceinline__ void copy_one(bfloat16* to, const bfloat16* from, bool there) {
    *to = there ? *from : bfloat16{0};  // two bytes are too few for an asynchronous copy
}

// The rows of the block's head in part `part` of an array (N, tokens, parts * heads * D).
template <class Kind> struct Rows {
    Kind* at;
    int64 line;
    Sizes is;

    __device__ __forceinline__ Rows(Kind* array, int part, int parts, const Sizes& sizes) : is(sizes) {
        line = (int64)parts * is.heads * is.D;
        at = array + blockIdx.x / is.heads * is.tokens * line + ((int64)part * is.heads + blockIdx.x % is.heads) * is.D;
    }

    // Begin to copy COUNT rows from row `first` on; what is not there is zero.
    template <int COUNT> __device__ __forceinline__ void fetch(T* to, int first) const {
        auto number = [&](int t, int d) { return t < is.tokens && d < is.D ? at + t * line + d : nullptr; };
        if (is.whole)
            for_chunks<COUNT>([&](int row, int d) {
                const Kind* from = number(first + row, d);
                cp_async16(to + row * PITCH + d, from ? from : at, from);
            });
        else
            for_chunks<COUNT>([&](int row, int d) {
#pragma unroll 1
                for (int e = d; e < d + CHUNK; e++) {
                    const Kind* from = number(first + row, e);
                    copy_one(to + row * PITCH + e, from ? from : at, from);
                }
            });
    }

    // Write factor * the block's rows, the first of them row `first`.
    template <int R> __device__ __forceinline__ void put(const Sums<R>& sums, int first, float factor) const {
#pragma unroll
        for (int r = 0; r < R; r++) {
            if (first + row<R>(r) >= is.tokens) continue;
            Kind* to = at + (first + row<R>(r)) * line;
#pragma unroll
            for (int c = 0; c < D_PADDED / LANES; c += 2) {
                const float two[2] = {factor * sums[r][c], factor * sums[r][c + 1]};
                if (MATH != FLOAT32 && is.whole) {
                    if (column(c) < is.D) store(to + column(c), two);
                } else {
#pragma unroll
                    for (int e = 0; e < 2; e++)
                        if (column(c + e) < is.D) to[column(c + e)] = as<T>(two[e]);
                }
            }
        }
    }
};

// The columns: rows of two arrays, and two numbers of each row, COLUMNS at a time, with room for them twice.
struct Columns {
    static constexpr int BEHIND = 2 * COLUMNS * PITCH, SIZE = BEHIND + 2 * COLUMNS * 4 / sizeof(T);
    Rows<const T> a, b;
    const float *lse, *delta;  // of this head, or null
    T* scratch;

    __device__ __forceinline__ T* half(int j) const { return scratch + j / COLUMNS % 2 * SIZE; }

    __device__ __forceinline__ void fetch(int j) const {
        a.fetch<COLUMNS>(half(j), j);
        b.fetch<COLUMNS>(half(j) + COLUMNS * PITCH, j);
        float* numbers = reinterpret_cast<float*>(half(j) + BEHIND);
        for (int i = threadIdx.x; lse && i < 2 * COLUMNS; i += THREADS) {
            const float* from = i < COLUMNS ? lse : delta;
            const int t = j + i % COLUMNS;
            cp_async4(numbers + i, t < a.is.tokens ? from + t : from, t < a.is.tokens);
        }
        cp_async_commit();
    }

    // visit(j, rows of a, rows of b, numbers) for all columns from `begin`, of which `fetch` has been called, to `end`.
    template <class Visit> __device__ __forceinline__ void walk(int begin, int end, Visit visit) const {
        for (int j = begin; j < end; j += COLUMNS) {
            T *left = half(j), *right = left + COLUMNS * PITCH;
            cp_async_wait<0>();
            as_operands<COLUMNS>(left);
            as_operands<COLUMNS>(right);
            __syncthreads();  // these are there for all, and all are done with those before, where the next will be
            if (j + COLUMNS < end) fetch(j + COLUMNS);
            visit(j, left, right, reinterpret_cast<const float*>(left + BEHIND));
        }
    }
};

// function(r, c) for a thread's rows and columns of the scores.
template <int R, class Function> __device__ __forceinline__ void each(Function function) {
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int c = 0; c < COLUMNS / LANES; c++) function(r, c);
}

template <class Join> __device__ __forceinline__ float across(float x, Join join) {  // the lanes of a row
#pragma unroll
    for (int d = LANES / 2; d > 0; d /= 2) x = join(x, __shfl_xor_sync(WHOLE_WARP, x, d));
    return x;
}

// Scores become powers of 2 relative to the highest of their row so far; what was summed up before is scaled.
template <int R> __device__ __forceinline__ void online(Scores<R>& s, Sums<R>& sums, float (&highest)[R],
                                                       float (&total)[R], float steep) {
#pragma unroll
    for (int r = 0; r < R; r++) {
        float most = s[r][0];
#pragma unroll
        for (int c = 1; c < COLUMNS / LANES; c++) most = fmaxf(most, s[r][c]);
        most = across(most, [](float x, float y) { return fmaxf(x, y); });
        most = fmaxf(highest[r], steep * most);
        const float factor = exp2f(highest[r] - most);
        highest[r] = most, total[r] *= factor;
#pragma unroll
        for (int c = 0; c < COLUMNS / LANES; c++) {
            s[r][c] = exp2f(fmaf(steep, s[r][c], -most));
            total[r] += s[r][c];
        }
#pragma unroll
        for (int c = 0; c < D_PADDED / LANES; c++) sums[r][c] *= factor;
    }
}

template <int ROWS>
__device__ __forceinline__ void forward(const T* qkv, T* y, float* lse, const Sizes& is, float scale) {
    constexpr int R = ROWS / WARPS / STEP;
    DYN_SMEM(T, queries);
    const Columns columns{{qkv, 1, 3, is}, {qkv, 2, 3, is}, nullptr, nullptr, queries + ROWS * PITCH};
    const int first = (gridDim.y - 1 - blockIdx.y) * ROWS, top = first + first_row<R>();  // the longest begin first
    Rows<const T>(qkv, 0, 3, is).fetch<ROWS>(queries, first);
    columns.fetch(0);
    cp_async_wait<0>();
    as_operands<ROWS>(queries);

    Sums<R> sums = {};
    float highest[R], total[R];
#pragma unroll
    for (int r = 0; r < R; r++) highest[r] = UNSEEN, total[r] = 0.f;
    columns.walk(0, min(is.tokens, first + ROWS), [&](int j, const T* keys, const T* values, const float*) {
        if (j >= top + STEP * R) return;  // this warp's rows see none of them
        Scores<R> s = {};
        dots(s, queries, keys);
        if (j + COLUMNS > top + 1)
            each<R>([&](int r, int c) {
                if (j + column(c) > first + row<R>(r)) s[r][c] = UNSEEN;
            });
        online(s, sums, highest, total, scale * LOG2E);
        mix(sums, s, values);
    });

#pragma unroll
    for (int r = 0; r < R; r++) {
        total[r] = across(total[r], [](float x, float y) { return x + y; });
        const int t = first + row<R>(r);
        if (t < is.tokens && lane() % LANES == 0)
            lse[(int64)blockIdx.x * is.tokens + t] = (highest[r] + log2f(total[r])) * LN2;
        const float factor = 1.f / total[r];
#pragma unroll
        for (int c = 0; c < D_PADDED / LANES; c++) sums[r][c] *= factor;
    }
    Rows<T>(y, 0, 1, is).put(sums, first, 1.f);
}

extern "C" __global__ void __launch_bounds__(THREADS) forward_64(const T* qkv, T* y, float* lse, int tokens, int heads,
                                                                 int D, int whole, float scale) {
    forward<64>(qkv, y, lse, {tokens, heads, D, whole}, scale);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) forward_128(const T* qkv, T* y, float* lse, int tokens,
                                                                          int heads, int D, int whole, float scale) {
    forward<128>(qkv, y, lse, {tokens, heads, D, whole}, scale);
}

// delta = sum over d of dy y, eight lanes a row of the (N * tokens * heads) rows.
extern "C" __global__ void __launch_bounds__(256) inner(const T* dy, const T* y, float* delta, int64 rows, int tokens,
                                                        int heads, int D, int whole) {
    for (int64 begin = first_thread() / 32 * 4; begin < rows; begin += all_threads() / 8) {
        const int64 row = begin + lane() / 8;
        float sum = 0.f;
        for (int d = lane() % 8 * CHUNK; row < rows && d < D; d += 8 * CHUNK) {
            float left[CHUNK] = {}, right[CHUNK] = {};
            if (whole) {
                load(left, dy + row * D + d);
                load(right, y + row * D + d);
            } else {
#pragma unroll
                for (int e = 0; e < CHUNK; e++)
                    if (d + e < D) left[e] = to_float(dy[row * D + d + e]), right[e] = to_float(y[row * D + d + e]);
            }
#pragma unroll
            for (int e = 0; e < CHUNK; e++) sum += left[e] * right[e];
        }
#pragma unroll
        for (int d = 4; d > 0; d /= 2) sum += __shfl_xor_sync(WHOLE_WARP, sum, d);
        const int64 token = row / heads;
        if (row < rows && lane() % 8 == 0)
            delta[(token / tokens * heads + row % heads) * tokens + token % tokens] = sum;
    }
}

// Of the block's queries, dq = scale ds k; or, KEYS, of its keys, dv = p^T dy and dk = scale ds^T q, rows and columns
// changing places: p = exp(scale q k^T - lse), ds = p (dy v^T - delta).
template <bool KEYS>
__device__ __forceinline__ void gradients(const T* qkv, const T* dy, const float* lse, const float* delta, T* dqkv,
                                          const Sizes& is, float scale) {
    constexpr int ROWS = 64, R = ROWS / WARPS / STEP;  // more do not fit into registers
    DYN_SMEM(T, rows_a);
    T *rows_b = rows_a + ROWS * PITCH, *scratch = rows_b + ROWS * PITCH;
    const int first = (KEYS ? blockIdx.y : gridDim.y - 1 - blockIdx.y) * ROWS, top = first + first_row<R>();
    lse += (int64)blockIdx.x * is.tokens, delta += (int64)blockIdx.x * is.tokens;
    const Rows<const T> q(qkv, 0, 3, is), k(qkv, 1, 3, is), v(qkv, 2, 3, is), dout(dy, 0, 1, is);
    const Columns columns{KEYS ? q : k, KEYS ? dout : v, KEYS ? lse : nullptr, delta, scratch};
    const int begin = KEYS ? first : 0;
    (KEYS ? k : q).template fetch<ROWS>(rows_a, first);
    (KEYS ? v : dout).template fetch<ROWS>(rows_b, first);
    columns.fetch(begin);
    cp_async_wait<0>();
    as_operands<ROWS>(rows_a);
    as_operands<ROWS>(rows_b);

    float own_lse[R], own_delta[R];
#pragma unroll
    for (int r = 0; r < R; r++) {
        const bool there = !KEYS && first + row<R>(r) < is.tokens;
        own_lse[r] = there ? lse[first + row<R>(r)] : 0.f, own_delta[r] = there ? delta[first + row<R>(r)] : 0.f;
    }
    Sums<R> by_a = {}, by_b = {};
    columns.walk(begin, KEYS ? is.tokens : min(is.tokens, first + ROWS),
                 [&](int j, const T* a, const T* b, const float* numbers) {
        if (KEYS ? j + COLUMNS <= top : j >= top + STEP * R) return;  // none of them sees or is seen by this warp's
        Scores<R> p = {}, ds = {};
        dots(p, rows_a, a);
        dots(ds, rows_b, b);
        each<R>([&](int r, int c) {
            const int i = first + row<R>(r) - j - column(c);
            const float exponent = KEYS ? numbers[column(c)] : own_lse[r];
            p[r][c] = (KEYS ? i <= 0 : i >= 0) ? exp2f(LOG2E * (scale * p[r][c] - exponent)) : 0.f;
            ds[r][c] = p[r][c] * (ds[r][c] - (KEYS ? numbers[COLUMNS + column(c)] : own_delta[r]));
        });
        mix(by_a, ds, a);
        if (KEYS) mix(by_b, p, b);
    });
    Rows<T>(dqkv, KEYS, 3, is).put(by_a, first, scale);
    if (KEYS) Rows<T>(dqkv, 2, 3, is).put(by_b, first, 1.f);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) by_queries(const T* qkv, const T* dy, const float* lse,
                                                                 const float* delta, T* dqkv, int tokens, int heads,
                                                                 int D, int whole, float scale) {
    gradients<false>(qkv, dy, lse, delta, dqkv, {tokens, heads, D, whole}, scale);
}

extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) by_keys(const T* qkv, const T* dy, const float* lse,
                                                              const float* delta, T* dqkv, int tokens, int heads,
                                                              int D, int whole, float scale) {
    gradients<true>(qkv, dy, lse, delta, dqkv, {tokens, heads, D, whole}, scale);
}
