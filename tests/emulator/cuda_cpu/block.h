// One block of CUDA threads: who runs, who waits for whom, and what is wrong when nobody can run.
#pragma once
#include <csetjmp>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "fiber.h"
#include "types.h"

static uint3 threadIdx, blockIdx;
static dim3 blockDim, gridDim;
static const int warpSize = 32;

namespace emulator {

const unsigned MAX_THREADS = 1024;

// Kernels are compiled with checks of indices and alignment. What runs at every switch needs none.
#define CUDA_CPU_UNCHECKED __attribute__((no_sanitize("undefined")))

// What Python asks for; build.py has the same fields.
struct Request {
    unsigned grid[3], block[3];
    uint64_t dynamic_bytes, stack_bytes;
    char *dynamic, *stacks;  // memory with guard pages around it
    uint64_t order;          // of threads and blocks: 0 forward, 1 reverse, else the seed of a shuffle
    int32_t early;           // asynchronous copies land at once, or as late as they may
    int32_t seconds;         // of computing, after which it is taken to wait for what cannot happen
    char* message;           // what went wrong
    int64_t message_bytes;
    uint64_t fault;          // the address of an access that had to fail
};

struct Warp;

// An operation for which lanes of a warp meet: the last one to arrive completes it for all of them.
struct Collective {
    const char* name;
    bool whole;  // all 32 lanes must take part
    void (*complete)(Warp&, unsigned lanes);
};

struct Copy {
    void* to;
    const void* from;  // null: zeros
    int bytes, group;
};

enum class State : uint8_t { running, meeting, barrier, exited };

struct Thread {
    Fiber fiber;
    uint3 index;
    unsigned lane;
    Warp* warp;
    State state;
    unsigned mask;           // of the lanes it wants to meet,
    const Collective* what;  // and for what
    Copy* copies;            // asynchronous ones that have not landed
    int first, last, room;   // of them
    int group;               // committed so far
};

// A row of a matrix product, as a vector for the compiler: its cheaper optimisation finds none in loops.
typedef float Row __attribute__((vector_size(32)));

struct Meeting {
    unsigned mask, arrived;
    const Collective* what;
};

// What lanes hand in and take away. A lane's own results stay until it arrives at its next meeting.
struct Warp {
    Thread* threads;
    unsigned present, ready, exited;  // bits of lanes; those of `ready` stand in the order of scheduling
    uint8_t lane_at[32], place_of[32];
    int meetings;
    Meeting meeting[32];
    uint64_t value[32], result[32];
    int source[32];
    alignas(64) float a[16][16];
    Row b[16], c[16];
    const void* row[32];
    unsigned words[32][4];
};

enum class Barrier : uint8_t { none, plain, all_of, any_of, count };

struct Block {
    unsigned size, warps, waiting, exited;
    Barrier barrier;
    unsigned votes;
    int result;
    uint8_t warp_at[32];
    Fiber scheduler;
    const char* kernel;
    Request* request;
    int thread;  // of the process, that runs it
    sigjmp_buf escape;
    void (*body)();
};

static Thread threads[MAX_THREADS];
static Warp warps[MAX_THREADS / 32];
static Block block;
static Thread* current;

// Ends the launch: the fibers are left where they are, and Python raises the message.
[[noreturn]] __attribute__((format(printf, 1, 2))) static void fail(const char* format, ...) {
    Request& request = *block.request;
    int used = snprintf(request.message, request.message_bytes, "%s, block (%u, %u, %u)", block.kernel, blockIdx.x,
                        blockIdx.y, blockIdx.z);
    if (current)
        used += snprintf(request.message + used, request.message_bytes - used, ", thread (%u, %u, %u)",
                         current->index.x, current->index.y, current->index.z);
    used += snprintf(request.message + used, request.message_bytes - used, ": ");
    va_list values;
    va_start(values, format);
    vsnprintf(request.message + used, request.message_bytes - used, format, values);
    va_end(values);
    siglongjmp(block.escape, 1);
}

// ---- where a thread is, in words -----------------------------------------------------------------------------------

static const char* barrier_name() {
    switch (block.barrier) {
        case Barrier::all_of: return "__syncthreads_and";
        case Barrier::any_of: return "__syncthreads_or";
        case Barrier::count: return "__syncthreads_count";
        default: return "__syncthreads";
    }
}

static const char* whereabouts(const Thread& thread) {
    static char text[2][96];
    static int turn;
    char* line = text[turn ^= 1];
    if (thread.state == State::barrier) snprintf(line, sizeof text[0], "waits at %s", barrier_name());
    else if (thread.state == State::exited) snprintf(line, sizeof text[0], "has exited");
    else snprintf(line, sizeof text[0], "waits at %s of lanes %08x", thread.what->name, thread.mask);
    return line;
}

// Nobody can run, and not all have exited or wait at the barrier.
[[noreturn]] static void fail_stuck() {
    unsigned meeting = 0;
    const Thread *one = nullptr, *other = nullptr;
    for (unsigned number = 0; number < block.size; number++) {
        Thread& thread = threads[number];
        meeting += thread.state == State::meeting;
        if (thread.state != State::exited && (!one || (one->state == State::barrier && thread.state != one->state)))
            one = &thread;
    }
    for (unsigned number = 0; number < block.size && !other; number++) {
        Thread& thread = threads[number];
        if (thread.state != one->state || (one->state == State::meeting && thread.warp == one->warp &&
                                           (thread.mask != one->mask || thread.what != one->what)))
            other = &thread;
    }
    if (!other) other = one;
    current = nullptr;
    fail("divergence: thread (%u, %u, %u) %s, thread (%u, %u, %u) %s; of %u threads %u wait at %s, %u for their warp, "
         "%u have exited",
         one->index.x, one->index.y, one->index.z, whereabouts(*one), other->index.x, other->index.y, other->index.z,
         whereabouts(*other), block.size, block.waiting, barrier_name(), meeting, block.exited);
}

// ---- scheduling: greedy, a warp runs until all of its lanes wait or have exited ------------------------------------

// The bits of lanes in the order of scheduling.
CUDA_CPU_UNCHECKED static unsigned in_order(const Warp& warp, unsigned lanes) {
    if (lanes == ~0u) return lanes;
    unsigned places = 0;
    for (; lanes; lanes &= lanes - 1) places |= 1u << warp.place_of[__builtin_ctz(lanes)];
    return places;
}

static void release_barrier() {
    unsigned votes = block.votes;
    block.result = block.barrier == Barrier::all_of   ? votes == block.size
                   : block.barrier == Barrier::any_of ? votes != 0
                                                      : int(votes);
    block.waiting = block.votes = 0;
    block.barrier = Barrier::none;
    for (unsigned number = 0; number < block.warps; number++)
        warps[number].ready = in_order(warps[number], warps[number].present);
}

CUDA_CPU_UNCHECKED static Warp* next_warp() {
    for (unsigned place = 0; place < block.warps; place++)
        if (warps[block.warp_at[place]].ready) return &warps[block.warp_at[place]];
    return nullptr;
}

// Lets the next thread run; returns when the current one is let run again.
CUDA_CPU_UNCHECKED static void pass_on() {
    Thread* before = current;
    Warp* warp = before->warp;
    if (!warp->ready && !(warp = next_warp())) {
        if (block.exited == block.size) before->fiber.go_to(block.scheduler);
        if (block.waiting != block.size) fail_stuck();
        release_barrier();
        warp = next_warp();
    }
    unsigned lane = warp->lane_at[__builtin_ctz(warp->ready)];
    warp->ready &= warp->ready - 1;
    Thread* next = &warp->threads[lane];
    next->state = State::running;
    if (next == before) return;
    current = next;
    threadIdx = next->index;
    before->fiber.go_to(next->fiber);
}

// ---- meetings of lanes ---------------------------------------------------------------------------------------------

CUDA_CPU_UNCHECKED static void complete(Warp& warp, Meeting& meeting) {
    unsigned lanes = meeting.arrived;
    if (meeting.what->complete) meeting.what->complete(warp, lanes);
    warp.ready |= in_order(warp, lanes);
    meeting = warp.meeting[--warp.meetings];
}

CUDA_CPU_UNCHECKED static bool is_whole(const Warp& warp, const Meeting& meeting) {
    unsigned missing = meeting.mask & ~meeting.arrived;
    if (meeting.what->whole) return !missing;
    return !(missing & warp.present & ~warp.exited);
}

// Waits for the lanes of `mask` to come here too. What a lane hands in must lie in the warp before.
CUDA_CPU_UNCHECKED static void meet(unsigned mask, const Collective& what) {
    Thread& me = *current;
    Warp& warp = *me.warp;
    if (!(mask >> me.lane & 1)) fail("%s of lanes %08x, which leaves out the lane that calls it", what.name, mask);
    int number = 0;
    while (number < warp.meetings && (warp.meeting[number].mask != mask || warp.meeting[number].what != &what))
        number++;
    if (number == warp.meetings) warp.meeting[warp.meetings++] = Meeting{mask, 0, &what};
    Meeting& meeting = warp.meeting[number];
    meeting.arrived |= 1u << me.lane;
    if (is_whole(warp, meeting)) {
        complete(warp, meeting);
        warp.ready &= ~(1u << warp.place_of[me.lane]);  // goes on at once
        return;
    }
    me.state = State::meeting;
    me.mask = mask;
    me.what = &what;
    pass_on();
}

// ---- barriers and the end ------------------------------------------------------------------------------------------

CUDA_CPU_UNCHECKED static int wait_at_barrier(Barrier kind, bool vote) {
    if (block.barrier != Barrier::none && block.barrier != kind)
        fail("reached a barrier while %u threads wait at another kind, %s", block.waiting, barrier_name());
    block.barrier = kind;
    block.votes += vote;
    block.waiting++;
    current->state = State::barrier;
    pass_on();
    return block.result;
}

static void run_thread() {
    block.body();
    Warp& warp = *current->warp;
    current->state = State::exited;
    warp.exited |= 1u << current->lane;
    block.exited++;
    for (int number = warp.meetings - 1; number >= 0; number--)
        if (is_whole(warp, warp.meeting[number])) complete(warp, warp.meeting[number]);
    pass_on();
    __builtin_unreachable();
}

}  // namespace emulator

static void __syncthreads() { emulator::wait_at_barrier(emulator::Barrier::plain, false); }
static int __syncthreads_and(int value) { return emulator::wait_at_barrier(emulator::Barrier::all_of, value != 0); }
static int __syncthreads_or(int value) { return emulator::wait_at_barrier(emulator::Barrier::any_of, value != 0); }
static int __syncthreads_count(int value) { return emulator::wait_at_barrier(emulator::Barrier::count, value != 0); }
