// Going over arrays number by number, VEC of one array at a time. After device.cuh.
#pragma once

constexpr int MOST_AHEAD = 4;  // packs of an array that a thread reads before it uses the first

// Arrays that are read, written, or both. A thread reads all it is about to work on before it writes, so an array that
// is written may be one that is read.
template <class Kind> struct In {
    const Kind* from;
    Pack<Kind, VEC> held[MOST_AHEAD];
    static constexpr int READS = 1;
    __device__ __forceinline__ explicit In(const Kind* array) : from(array) {}
    __device__ __forceinline__ void read(int i, int64 at) {
        held[i] = *reinterpret_cast<const Pack<Kind, VEC>*>(from + at);
    }
    __device__ __forceinline__ float number(int i, int k) const { return to_float(held[i].at[k]); }
    __device__ __forceinline__ void write(int64) const {}
};

template <class Kind> struct Out {
    Kind* to;
    float made[VEC];
    static constexpr int READS = 0;
    __device__ __forceinline__ explicit Out(Kind* array) : to(array) {}
    __device__ __forceinline__ void read(int, int64) const {}
    __device__ __forceinline__ float& number(int, int k) { return made[k]; }
    __device__ __forceinline__ void write(int64 at) const { store<VEC>(to + at, made); }
};

// Written unless it is a null pointer.
template <class Kind> struct Perhaps : Out<Kind> {
    using Out<Kind>::Out;
    __device__ __forceinline__ void write(int64 at) const {
        if (this->to != nullptr) Out<Kind>::write(at);
    }
};
template <class Kind> Perhaps(Kind*) -> Perhaps<Kind>;

template <class Kind> struct Both {
    In<Kind> old;
    Out<Kind> changed;
    static constexpr int READS = 1;
    __device__ __forceinline__ explicit Both(Kind* array) : old(array), changed(array) {}
    __device__ __forceinline__ void read(int i, int64 at) { old.read(i, at); }
    __device__ __forceinline__ float& number(int i, int k) { return changed.made[k] = old.number(i, k); }
    __device__ __forceinline__ void write(int64 at) const { changed.write(at); }
};

// work(index, number of each array...) for all n, a multiple of VEC.
template <class Work, class... Arrays> __device__ __forceinline__ void each(int64 n, Work work, Arrays... arrays) {
    constexpr int reads = (Arrays::READS + ...), AHEAD = reads < MOST_AHEAD ? MOST_AHEAD / reads : 1;
    const int64 step = all_threads() * VEC;
    for (int64 start = first_thread() * VEC; start < n; start += AHEAD * step) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            if (start + i * step < n) (arrays.read(i, start + i * step), ...);
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int64 at = start + i * step;
            if (at >= n) break;
#pragma unroll
            for (int k = 0; k < VEC; k++) work(at + k, arrays.number(i, k)...);
            (arrays.write(at), ...);
        }
    }
}
