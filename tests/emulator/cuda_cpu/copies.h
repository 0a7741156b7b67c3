// Asynchronous copies to shared memory, that land at once or as late as they may.
#pragma once
#include "block.h"

extern "C" __attribute__((visibility("hidden"))) char __start_cuda_cpu_shared[], __stop_cuda_cpu_shared[];

namespace emulator {

CUDA_CPU_UNCHECKED static bool in_shared(const void* address, size_t bytes) {
    const char* first = static_cast<const char*>(address);
    const Request& request = *block.request;
    return (first >= request.dynamic && first + bytes <= request.dynamic + request.dynamic_bytes) ||
           (first >= __start_cuda_cpu_shared && first + bytes <= __stop_cuda_cpu_shared);
}

CUDA_CPU_UNCHECKED static void require_aligned(const void* address, size_t bytes, const char* what, const char* side) {
    if (reinterpret_cast<uintptr_t>(address) % bytes)
        fail("%s: the %s address %p is not a multiple of %zu", what, side, address, bytes);
}

CUDA_CPU_UNCHECKED static void require_shared(const void* address, size_t bytes, const char* what) {
    require_aligned(address, bytes, what, "shared");
    if (!in_shared(address, bytes)) fail("%s: %p does not lie in shared memory", what, address);
}

CUDA_CPU_UNCHECKED static void land(const Copy& copy) {
    if (copy.from) memcpy(copy.to, copy.from, copy.bytes);
    else memset(copy.to, 0, copy.bytes);
}

CUDA_CPU_UNCHECKED static void copy_later(const Copy& copy) {
    Thread& me = *current;
    if (me.first == me.last) me.first = me.last = 0;
    if (me.last == me.room) {
        me.room = me.room ? 2 * me.room : 64;
        me.copies = static_cast<Copy*>(realloc(me.copies, me.room * sizeof(Copy)));
    }
    me.copies[me.last++] = copy;
}

CUDA_CPU_UNCHECKED static void copy_to_shared(void* to, const void* from, bool ok, int bytes, const char* what) {
    require_shared(to, bytes, what);
    require_aligned(from, bytes, what, "global");
    Copy copy{to, ok ? from : nullptr, bytes, current->group};
    if (block.request->early) land(copy);
    else copy_later(copy);
}

CUDA_CPU_UNCHECKED static void wait_for_copies(int pending) {
    Thread& me = *current;
    while (me.first < me.last && me.copies[me.first].group < me.group - pending) land(me.copies[me.first++]);
}

}  // namespace emulator

static inline void cp_async16(void* shared, const void* global, bool ok) {
    emulator::copy_to_shared(shared, global, ok, 16, "cp_async16");
}
static inline void cp_async8(void* shared, const void* global, bool ok) {
    emulator::copy_to_shared(shared, global, ok, 8, "cp_async8");
}
static inline void cp_async4(void* shared, const void* global, bool ok) {
    emulator::copy_to_shared(shared, global, ok, 4, "cp_async4");
}
static inline void cp_async_commit() { emulator::current->group++; }
template <int N>
static inline void cp_async_wait() { emulator::wait_for_copies(N); }
