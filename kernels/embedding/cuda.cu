// Embedding: rows copied one way; back, rows summed that belong together, found by sorting places by their tokens.
//     T: type of y and dy      VEC: numbers a thread moves at once, of which C is a multiple
// What has C channels is done by blocks (X,Y) in grids (rows, tiles of channels), a row each Y and VEC channels each X.
#include "device.cuh"
#include "scan.cuh"

#define DIGITS 512  // that a sort tells apart at once, in blocks of as many threads and places
#define PIECE 128   // terms of a sum in float
#define AT_ONCE 4   // rows whose loads are in flight
#define CHANNEL ((int)(blockIdx.y * blockDim.x + threadIdx.x) * VEC)
#define ROW ((int)(blockIdx.x * blockDim.y + threadIdx.y))
#define EACH(i, n) _Pragma("unroll") for (int i = 0; i < n; i++)

// y (places,C) = table[tokens] + positions; a null positions is none, and the row of a token that there is not NaN.
extern "C" __global__ void __launch_bounds__(256) embedding(const int64* tokens, const float* table,
                                                            const float* positions, T* y, int places, int length, int V,
                                                            int C) {
    if (ROW >= places || CHANNEL >= C) return;
    const int64 token = tokens[ROW];
    float row[VEC], more[VEC];
    EACH(v, VEC) row[v] = __uint_as_float(0x7fc00000u);
    if (token >= 0 && token < V) load(row, table + token * C + CHANNEL);
    if (positions) {
        load(more, positions + (int64)(ROW % length) * C + CHANNEL);
        EACH(v, VEC) row[v] += more[v];
    }
    store(y + (int64)ROW * C + CHANNEL, row);
}

// What a place is sorted by; tokens that there are not come last.
__device__ __forceinline__ int key(const int64* tokens, int place, int V) {
    const int64 token = tokens[place];
    return token >= 0 && token < V ? (int)token : V;
}

// This thread's place, and the digits of its block's, -1 behind the last. A null order is that of the places.
__device__ int digits_of(int (&digits)[DIGITS], const int64* tokens, const int* order, int places, int V, int shift) {
    const int i = blockIdx.x * DIGITS + threadIdx.x, place = i < places ? order ? order[i] : i : -1;
    digits[threadIdx.x] = place < 0 ? -1 : key(tokens, place, V) >> shift & (DIGITS - 1);
    __syncthreads();
    return place;
}

// counts (DIGITS, blocks): how often each digit is in each block.
extern "C" __global__ void __launch_bounds__(DIGITS) count_digits(const int64* tokens, const int* order, int* counts,
                                                                  int places, int V, int shift) {
    __shared__ int digits[DIGITS];
    digits_of(digits, tokens, order, places, V, shift);
    int found = 0;
    for (int i = 0; i < DIGITS; i++) found += digits[i] == threadIdx.x;
    counts[threadIdx.x * gridDim.x + blockIdx.x] = found;
}

// sorted (places,): the places by their digit, in the same order if it is the same; counts have been scanned.
extern "C" __global__ void __launch_bounds__(DIGITS) arrange(const int64* tokens, const int* order, const int* counts,
                                                             int* sorted, int places, int V, int shift) {
    __shared__ int digits[DIGITS];
    const int place = digits_of(digits, tokens, order, places, V, shift);
    if (place < 0) return;
    const int digit = digits[threadIdx.x];
    int before = 0;
    for (int i = 0; i < threadIdx.x; i++) before += digits[i] == digit;
    sorted[counts[digit * gridDim.x + blockIdx.x] + before] = place;
}

// begin (V + 1,): those of token v are order[begin[v]] to order[begin[v + 1] - 1].
extern "C" __global__ void __launch_bounds__(256) bounds(const int64* tokens, const int* order, int* begin, int places,
                                                         int V) {
    const int v = blockIdx.x * blockDim.x + threadIdx.x;
    if (v > V) return;
    int low = 0, high = places;
    while (low < high) {
        const int middle = low + (high - low) / 2;
        if (key(tokens, order[middle], V) < v) low = middle + 1;
        else high = middle;
    }
    begin[v] = low;
}

// Add to total what rows (...,C) have in this thread's channels, at(first) to at(last - 1).
template <class Kind, class At>
__device__ __forceinline__ void add_rows(double (&total)[VEC], const Kind* rows, At at, int first, int last, int C) {
    for (int start = first; start < last; start += PIECE) {
        const int end = min(start + PIECE, last);
        float sum[VEC] = {}, values[AT_ONCE][VEC];
        for (int i = start; i < end; i += AT_ONCE) {
            EACH(u, AT_ONCE) if (i + u < end) load(values[u], rows + (int64)at(i + u) * C + CHANNEL);
            EACH(u, AT_ONCE) if (i + u < end) EACH(v, VEC) sum[v] += values[u][v];
        }
        EACH(v, VEC) total[v] += sum[v];
    }
}

__device__ __forceinline__ void put_row(float* row, const double (&total)[VEC]) {
    float sum[VEC];
    EACH(v, VEC) sum[v] = (float)total[v];
    store(row + CHANNEL, sum);
}

// heads (pieces,C): where PIECE sorted places begin with a token of the piece before, the sum of its dy among them.
extern "C" __global__ void __launch_bounds__(256) sum_heads(const T* dy, const int64* tokens, const int* order,
                                                            const int* begin, float* heads, int places, int V, int C) {
    const int first = ROW * PIECE;
    if (first >= places || first == 0 || CHANNEL >= C) return;
    const int token = key(tokens, order[first], V);
    if (token == V || begin[token] == first) return;
    double total[VEC] = {};
    add_rows(total, dy, [=](int i) { return order[i]; }, first, min(begin[token + 1], first + PIECE), C);
    put_row(heads + (int64)ROW * C, total);
}

// dtable (V,C): the sums of the dy of each token, of which those after the first piece are in heads.
extern "C" __global__ void __launch_bounds__(256) sum_tokens(const T* dy, const int* order, const int* begin,
                                                             const float* heads, float* dtable, int V, int C) {
    if (ROW >= V || CHANNEL >= C) return;
    const int first = begin[ROW], last = begin[ROW + 1], piece = first / PIECE + 1;
    double total[VEC] = {};
    add_rows(total, dy, [=](int i) { return order[i]; }, first, min(last, piece * PIECE), C);
    add_rows(total, heads, [=](int i) { return i; }, piece, (last + PIECE - 1) / PIECE, C);
    put_row(dtable + (int64)ROW * C, total);
}

// dpositions (rows,C): the sums of the dy (N,length,C) of each place in its sequence.
extern "C" __global__ void __launch_bounds__(256) sum_positions(const T* dy, float* dpositions, int N, int length,
                                                                int rows, int C) {
    if (ROW >= rows || CHANNEL >= C) return;
    const int row = ROW;
    double total[VEC] = {};
    if (row < length) add_rows(total, dy, [=](int n) { return (int64)n * length + row; }, 0, N, C);
    put_row(dpositions + (int64)row * C, total);
}
