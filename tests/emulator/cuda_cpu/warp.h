// What the lanes of a warp do together: shuffles, votes, matrix products and loads of fragments.
#pragma once
#include "block.h"

namespace emulator {

const uint64_t POISON = ~uint64_t(0);  // what hardware leaves undefined

// ---- shuffles and votes --------------------------------------------------------------------------------------------

CUDA_CPU_UNCHECKED static void exchange(Warp& warp, unsigned lanes) {
    for (unsigned left = lanes; left; left &= left - 1) {
        unsigned lane = __builtin_ctz(left), source = warp.source[lane];
        warp.result[lane] = lanes >> source & 1 ? warp.value[source] : POISON;
    }
}

template <uint64_t (*of)(Warp&, unsigned)>
static void tell_all(Warp& warp, unsigned lanes) {
    uint64_t result = of(warp, lanes);
    for (unsigned left = lanes; left; left &= left - 1) warp.result[__builtin_ctz(left)] = result;
}

template <class Join>
static uint64_t join(Warp& warp, unsigned lanes, Join both) {
    uint64_t result = warp.value[__builtin_ctz(lanes)];
    for (unsigned left = lanes & (lanes - 1); left; left &= left - 1)
        result = both(result, warp.value[__builtin_ctz(left)]);
    return result;
}

static uint64_t ballot(Warp& warp, unsigned lanes) {
    uint64_t votes = 0;
    for (unsigned left = lanes; left; left &= left - 1)
        votes |= uint64_t(warp.value[__builtin_ctz(left)] != 0) << __builtin_ctz(left);
    return votes;
}
static uint64_t any_of(Warp& warp, unsigned lanes) { return ballot(warp, lanes) != 0; }
static uint64_t all_of(Warp& warp, unsigned lanes) { return ballot(warp, lanes) == lanes; }
static uint64_t sum_of(Warp& warp, unsigned lanes) {
    return join(warp, lanes, [](uint64_t x, uint64_t y) { return uint64_t(unsigned(x + y)); });
}
static uint64_t most_of(Warp& warp, unsigned lanes) {
    return join(warp, lanes, [](uint64_t x, uint64_t y) { return x < y ? y : x; });
}
static uint64_t least_of(Warp& warp, unsigned lanes) {
    return join(warp, lanes, [](uint64_t x, uint64_t y) { return y < x ? y : x; });
}

static const Collective SYNCWARP{"__syncwarp", false, nullptr};
static const Collective SHUFFLE{"__shfl_sync", false, exchange};
static const Collective SHUFFLE_UP{"__shfl_up_sync", false, exchange};
static const Collective SHUFFLE_DOWN{"__shfl_down_sync", false, exchange};
static const Collective SHUFFLE_XOR{"__shfl_xor_sync", false, exchange};
static const Collective BALLOT{"__ballot_sync", false, tell_all<ballot>};
static const Collective ANY{"__any_sync", false, tell_all<any_of>};
static const Collective ALL{"__all_sync", false, tell_all<all_of>};
static const Collective SUM{"__reduce_add_sync", false, tell_all<sum_of>};
static const Collective MOST{"__reduce_max_sync", false, tell_all<most_of>};
static const Collective LEAST{"__reduce_min_sync", false, tell_all<least_of>};

CUDA_CPU_UNCHECKED static uint64_t hand_in(unsigned mask, uint64_t value, const Collective& what, int source = 0) {
    Warp& warp = *current->warp;
    unsigned lane = current->lane;
    warp.value[lane] = value;
    warp.source[lane] = source;
    meet(mask, what);
    return warp.result[lane];
}

template <class T>
static inline T shuffle(unsigned mask, T value, const Collective& what, int source) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle moves 4 or 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    bits = hand_in(mask, bits, what, source);
    memcpy(&value, &bits, sizeof value);
    return value;
}

// ---- matrix products: every lane lays its fragments into the warp's matrices, the last one multiplies --------------

template <int DEPTH>
CUDA_CPU_UNCHECKED static void multiply(Warp& warp, unsigned) {
    for (int row = 0; row < 16; row++) {
        Row sum = warp.c[row];
        for (int k = 0; k < DEPTH; k++) sum += warp.a[row][k] * warp.b[k];
        warp.c[row] = sum;
    }
}

static const Collective MMA_TF32{"mma_m16n8k8_tf32", true, multiply<8>};
static const Collective MMA_BF16{"mma_m16n8k16_bf16", true, multiply<16>};

CUDA_CPU_UNCHECKED static inline float tf32(unsigned bits) {
    bits &= 0xffffe000u;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
CUDA_CPU_UNCHECKED static inline float low_bf16(unsigned bits) {
    bits <<= 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
CUDA_CPU_UNCHECKED static inline float high_bf16(unsigned bits) { return low_bf16(bits >> 16); }

CUDA_CPU_UNCHECKED static inline void accumulate(float (&d)[4], Warp& warp, const Collective& what) {
    unsigned row = current->lane / 4, column = current->lane % 4 * 2;
    memcpy(&warp.c[row][column], d, 8);
    memcpy(&warp.c[row + 8][column], d + 2, 8);
    meet(~0u, what);
    memcpy(d, &warp.c[row][column], 8);
    memcpy(d + 2, &warp.c[row + 8][column], 8);
}

// ---- ldmatrix: lane 8 i + r gives row r of matrix i, of eight 16-bit values ----------------------------------------

template <int COUNT, bool TRANSPOSED>
CUDA_CPU_UNCHECKED static void load_matrices(Warp& warp, unsigned) {
    for (int matrix = 0; matrix < COUNT; matrix++)
        for (int lane = 0; lane < 32; lane++) {
            uint16_t pair[2];
            for (int i = 0; i < 2; i++) {
                int row = TRANSPOSED ? lane % 4 * 2 + i : lane / 4, column = TRANSPOSED ? lane / 4 : lane % 4 * 2 + i;
                memcpy(&pair[i], static_cast<const uint16_t*>(warp.row[8 * matrix + row]) + column, 2);
            }
            memcpy(&warp.words[lane][matrix], pair, 4);
        }
}

static const Collective LDMATRIX_X4{"ldmatrix_x4", true, load_matrices<4, false>};
static const Collective LDMATRIX_X4_TRANS{"ldmatrix_x4_trans", true, load_matrices<4, true>};
static const Collective LDMATRIX_X2{"ldmatrix_x2", true, load_matrices<2, false>};
static const Collective LDMATRIX_X2_TRANS{"ldmatrix_x2_trans", true, load_matrices<2, true>};

template <int COUNT>
static inline void load(unsigned (&r)[COUNT], const void* row, const Collective& what) {
    Warp& warp = *current->warp;
    unsigned lane = current->lane;
    if (lane < 8 * COUNT) require_shared(row, 16, what.name);
    warp.row[lane] = row;
    meet(~0u, what);
    memcpy(r, warp.words[lane], sizeof r);
}

}  // namespace emulator

static inline void __syncwarp(unsigned mask = ~0u) { emulator::meet(mask, emulator::SYNCWARP); }
static inline unsigned __activemask() { return 1u << emulator::current->lane; }
static inline unsigned __ballot_sync(unsigned mask, int vote) {
    return unsigned(emulator::hand_in(mask, vote != 0, emulator::BALLOT));
}
static inline int __any_sync(unsigned mask, int vote) { return emulator::hand_in(mask, vote != 0, emulator::ANY); }
static inline int __all_sync(unsigned mask, int vote) { return emulator::hand_in(mask, vote != 0, emulator::ALL); }
template <class T>
static inline T __reduce_add_sync(unsigned mask, T value) {
    return T(emulator::hand_in(mask, unsigned(value), emulator::SUM));
}
// A signed number keeps its order as an unsigned one when its highest bit is turned over.
template <class T>
static inline T __reduce_max_sync(unsigned mask, T value) {
    unsigned flip = T(-1) < T(0) ? 1u << 31 : 0;
    return T(unsigned(emulator::hand_in(mask, unsigned(value) ^ flip, emulator::MOST)) ^ flip);
}
template <class T>
static inline T __reduce_min_sync(unsigned mask, T value) {
    unsigned flip = T(-1) < T(0) ? 1u << 31 : 0;
    return T(unsigned(emulator::hand_in(mask, unsigned(value) ^ flip, emulator::LEAST)) ^ flip);
}

template <class T>
static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    int lane = emulator::current->lane, first = lane & ~(width - 1);
    return emulator::shuffle(mask, value, emulator::SHUFFLE, first | (source & (width - 1)));
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int lane = emulator::current->lane, first = lane & ~(width - 1), source = lane - int(delta);
    return emulator::shuffle(mask, value, emulator::SHUFFLE_UP, source < first ? lane : source);
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int lane = emulator::current->lane, last = lane | (width - 1), source = lane + int(delta);
    return emulator::shuffle(mask, value, emulator::SHUFFLE_DOWN, source > last ? lane : source);
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    int lane = emulator::current->lane, last = lane | (width - 1), source = lane ^ bits;
    return emulator::shuffle(mask, value, emulator::SHUFFLE_XOR, source > last ? lane : source);
}

// Fragments as the PTX ISA lays them out: lane l holds rows l/4 and l/4 + 8, and columns from l%4.
CUDA_CPU_UNCHECKED static void mma_m16n8k8_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    using namespace emulator;
    Warp& warp = *current->warp;
    unsigned row = current->lane / 4, k = current->lane % 4;
    warp.a[row][k] = tf32(a[0]);
    warp.a[row + 8][k] = tf32(a[1]);
    warp.a[row][k + 4] = tf32(a[2]);
    warp.a[row + 8][k + 4] = tf32(a[3]);
    warp.b[k][row] = tf32(b[0]);
    warp.b[k + 4][row] = tf32(b[1]);
    accumulate(d, warp, MMA_TF32);
}

CUDA_CPU_UNCHECKED static void mma_m16n8k16_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    using namespace emulator;
    Warp& warp = *current->warp;
    unsigned row = current->lane / 4, k = current->lane % 4 * 2;
    for (int part = 0; part < 4; part++) {
        float* place = &warp.a[row + part % 2 * 8][k + part / 2 * 8];
        place[0] = low_bf16(a[part]);
        place[1] = high_bf16(a[part]);
    }
    for (int part = 0; part < 2; part++) {
        warp.b[k + 8 * part][row] = low_bf16(b[part]);
        warp.b[k + 8 * part + 1][row] = high_bf16(b[part]);
    }
    accumulate(d, warp, MMA_BF16);
}

// To the nearest tf32 number, of two the one away from zero; infinities and NaN stay what they are.
static inline unsigned to_tf32(float value) {
    unsigned bits;
    memcpy(&bits, &value, 4);
    return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & 0xffffe000u;
}

static inline void ldmatrix_x4(unsigned (&r)[4], const void* row) { emulator::load(r, row, emulator::LDMATRIX_X4); }
static inline void ldmatrix_x2(unsigned (&r)[2], const void* row) { emulator::load(r, row, emulator::LDMATRIX_X2); }
static inline void ldmatrix_x4_trans(unsigned (&r)[4], const void* row) {
    emulator::load(r, row, emulator::LDMATRIX_X4_TRANS);
}
static inline void ldmatrix_x2_trans(unsigned (&r)[2], const void* row) {
    emulator::load(r, row, emulator::LDMATRIX_X2_TRANS);
}
