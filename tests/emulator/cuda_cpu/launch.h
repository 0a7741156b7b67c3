// From a request to run a kernel, to its blocks, one after another.
#pragma once
#include <ucontext.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <ctime>
#include <numeric>
#include <type_traits>
#include <utility>

#include "block.h"
#include "copies.h"

// So that the section exists in a kernel without shared memory too.
static char cuda_cpu_no_shared __attribute__((section("cuda_cpu_shared"), used));

namespace emulator {

// ---- parameters, as Python must know them --------------------------------------------------------------------------

struct Parameter {
    char kind;  // p pointer, f floating, i integer, s struct
    int32_t bytes, alignment;
};

template <class T>
constexpr Parameter parameter() {
    if constexpr (std::is_pointer_v<T>) {
        using To = std::remove_cv_t<std::remove_pointer_t<T>>;
        if constexpr (std::is_void_v<To>) return {'p', 8, 1};
        else return {'p', 8, int32_t(alignof(To))};
    } else {
        return {std::is_floating_point_v<T> ? 'f' : std::is_integral_v<T> ? 'i' : 's', sizeof(T), 1};
    }
}

template <class... P>
struct Signature {
    static constexpr int count = sizeof...(P);
    static constexpr Parameter parameters[count + 1] = {parameter<std::remove_cv_t<P>>()...};
};

template <class... P>
static const Parameter* signature(void (*)(P...), int* count) {
    *count = Signature<P...>::count;
    return Signature<P...>::parameters;
}

// Of shared memory that the kernels of a source declare together, which is the most that one of them may.
static int declared_shared() { return int(__stop_cuda_cpu_shared - __start_cuda_cpu_shared - sizeof cuda_cpu_no_shared); }

static constexpr int first_of(int first = int(MAX_THREADS), ...) { return first; }  // of __launch_bounds__

// ---- faults, and kernels that do not end ---------------------------------------------------------------------------

const int SIGNALS[] = {SIGSEGV, SIGBUS, SIGILL, SIGXCPU};

static void on_signal(int signal, siginfo_t* information, void* context) {
    if (gettid() != block.thread) {  // some other thread's fault: let it have it
        std::signal(signal, SIG_DFL);
        return;
    }
    if (signal == SIGXCPU) fail("still runs after %d seconds of computing", block.request->seconds);
    if (signal == SIGILL) fail("traps");
    block.request->fault = reinterpret_cast<uint64_t>(information->si_addr);
    const char* what = "touches";
#ifdef __x86_64__
    what = static_cast<ucontext_t*>(context)->uc_mcontext.gregs[REG_ERR] & 2 ? "writes" : "reads";
#endif
    fail("%s memory that it must not, at %p", what, information->si_addr);
}

// Signals are ours while a launch runs. Their stack must be another than that of the thread, which may be full.
struct Signals {
    struct sigaction before[sizeof SIGNALS / sizeof *SIGNALS];
    stack_t stack_before;
    timer_t timer;
    static inline char stack[64 << 10];

    void begin(int seconds) {
        stack_t alternative = {};
        alternative.ss_sp = stack;
        alternative.ss_size = sizeof stack;
        sigaltstack(&alternative, &stack_before);
        struct sigaction action = {};
        action.sa_sigaction = on_signal;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        int number = 0;
        for (int signal : SIGNALS) sigaction(signal, &action, &before[number++]);
        sigevent event = {};
        event.sigev_notify = SIGEV_THREAD_ID;
        event.sigev_signo = SIGXCPU;
        event._sigev_un._tid = block.thread;
        timer_create(CLOCK_THREAD_CPUTIME_ID, &event, &timer);
        itimerspec limit = {};
        limit.it_value.tv_sec = seconds;
        timer_settime(timer, 0, &limit, nullptr);
    }
    void end() {
        timer_delete(timer);
        int number = 0;
        for (int signal : SIGNALS) sigaction(signal, &before[number++], nullptr);
        sigaltstack(&stack_before, nullptr);
    }
};

// ---- blocks --------------------------------------------------------------------------------------------------------

static uint64_t shuffle_state;

static unsigned drawn_below(uint64_t bound) {
    shuffle_state = shuffle_state * 6364136223846793005u + 1442695040888963407u;
    return unsigned((shuffle_state >> 33) % bound);
}

static void arrange(uint8_t* places, unsigned count, uint64_t order) {
    for (unsigned place = 0; place < count; place++) places[place] = order == 1 ? count - 1 - place : place;
    if (order < 2) return;
    for (unsigned place = count - 1; place > 0; place--) std::swap(places[place], places[drawn_below(place + 1)]);
}

static void prepare_warps(const Request& request) {
    shuffle_state = request.order;
    block.warps = (block.size + 31) / 32;
    arrange(block.warp_at, block.warps, request.order);
    for (unsigned number = 0; number < block.warps; number++) {
        Warp& warp = warps[number];
        warp.threads = threads + 32 * number;
        unsigned left = block.size - 32 * number;
        warp.present = left >= 32 ? ~0u : (1u << left) - 1;
        arrange(warp.lane_at, 32, request.order);
        for (unsigned place = 0; place < 32; place++) warp.place_of[warp.lane_at[place]] = place;
    }
    for (unsigned number = 0; number < block.size; number++) {
        Thread& thread = threads[number];
        thread.index = uint3{number % blockDim.x, number / blockDim.x % blockDim.y, number / blockDim.x / blockDim.y};
        thread.lane = number % 32;
        thread.warp = &warps[number / 32];
    }
}

static void run_block(const Request& request) {
    memset(__start_cuda_cpu_shared, 0xff, __stop_cuda_cpu_shared - __start_cuda_cpu_shared);
    if (request.dynamic_bytes) memset(request.dynamic, 0xff, request.dynamic_bytes);
    block.waiting = block.exited = block.votes = 0;
    block.barrier = Barrier::none;
    for (unsigned number = 0; number < block.size; number++) {
        Thread& thread = threads[number];
        thread.state = State::running;
        thread.first = thread.last = thread.group = 0;
        // Stacks that begin at the same place of their pages would share the same few lines of the cache.
        char* stack = request.stacks + number * request.stack_bytes;
        thread.fiber.begin(stack, request.stack_bytes - number % 32 * 192, run_thread);
    }
    for (unsigned number = 0; number < block.warps; number++) {
        Warp& warp = warps[number];
        warp.exited = warp.meetings = 0;
        warp.ready = in_order(warp, warp.present);
    }
    Warp* warp = next_warp();
    current = &warp->threads[warp->lane_at[__builtin_ctz(warp->ready)]];
    warp->ready &= warp->ready - 1;
    threadIdx = current->index;
    block.scheduler.go_to(current->fiber);
}

// Blocks depend on each other no more than threads may, so they come in such an order too.
static void run_blocks(const Request& request) {
    uint64_t width = request.grid[0], height = request.grid[1], count = width * height * request.grid[2];
    uint64_t step = request.order == 1 ? count - 1 : 1, at = request.order == 1 ? count - 1 : 0;
    if (request.order > 1) {
        at = drawn_below(count);
        do step = 1 + drawn_below(count);
        while (std::gcd(step, count) != 1);
    }
    for (uint64_t number = 0; number < count; number++, at = (at + step) % count) {
        blockIdx = uint3{unsigned(at % width), unsigned(at / width % height), unsigned(at / width / height)};
        run_block(request);
    }
}

template <class... P>
struct Call {
    static inline void (*kernel)(P...);
    static inline void** values;

    template <size_t... I>
    static void with(std::index_sequence<I...>) { kernel(*static_cast<std::remove_cv_t<P>*>(values[I])...); }
    static void body() { with(std::index_sequence_for<P...>{}); }
};

// Runs all blocks; 0, or 1 with a message in the request.
template <class... P>
static int launch(const char* name, void (*kernel)(P...), Request* request, void** values) {
    static Signals signals;
    Call<P...>::kernel = kernel;
    Call<P...>::values = values;
    block.kernel = name;
    block.request = request;
    block.thread = gettid();
    block.body = Call<P...>::body;
    block.size = request->block[0] * request->block[1] * request->block[2];
    gridDim = dim3(request->grid[0], request->grid[1], request->grid[2]);
    blockDim = dim3(request->block[0], request->block[1], request->block[2]);
    prepare_warps(*request);
    signals.begin(request->seconds);
    int failed = sigsetjmp(block.escape, 1);
    if (!failed) run_blocks(*request);
    current = nullptr;
    signals.end();
    return failed;
}

}  // namespace emulator
