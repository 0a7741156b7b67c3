// A stack of its own for every CUDA thread, and the switch from one to another.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emulator {

#if defined(__x86_64__) && !defined(CUDA_CPU_PORTABLE)
// Only what a called function must preserve is kept: seven words on the stack, and the stack pointer.
// Leaving by `jmp` and not `ret` spares the processor a wrong guess: it expects returns to match calls.
asm(R"(
    .text
    .p2align 4
    .type cuda_cpu_switch, @function
cuda_cpu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    popq %rdx
    jmp *%rdx
    .size cuda_cpu_switch, . - cuda_cpu_switch
)");
#define CUDA_CPU_WORDS 8  // six registers, where to go on, and a return address that nothing uses
#define CUDA_CPU_ENTRY 6
#elif defined(__aarch64__) && !defined(CUDA_CPU_PORTABLE)
asm(R"(
    .text
    .p2align 4
    .type cuda_cpu_switch, %function
cuda_cpu_switch:
    sub sp, sp, #160
    stp x19, x20, [sp]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    mov sp, x1
    ldp x19, x20, [sp]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
    .size cuda_cpu_switch, . - cuda_cpu_switch
)");
#define CUDA_CPU_WORDS 20
#define CUDA_CPU_ENTRY 11
#endif

#ifdef CUDA_CPU_WORDS
extern "C" __attribute__((visibility("hidden"))) void cuda_cpu_switch(void** from, void* to);

struct Fiber {
    void* at = nullptr;

    // The next switch to this fiber calls `entry`, which must not return.
    void begin(char* stack, size_t size, void (*entry)()) {
        void** top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack) + size) & ~uintptr_t(63));
        top -= CUDA_CPU_WORDS;
        for (int word = 0; word < CUDA_CPU_WORDS; word++) top[word] = nullptr;
        top[CUDA_CPU_ENTRY] = reinterpret_cast<void*>(entry);
        at = top;
    }
    __attribute__((always_inline)) void go_to(Fiber& other) { cuda_cpu_switch(&at, other.at); }
};

#else  // any other processor: slower, with a system call at each switch
}
#include <ucontext.h>
namespace emulator {

struct Fiber {
    ucontext_t context;

    void begin(char* stack, size_t size, void (*entry)()) {
        getcontext(&context);
        context.uc_stack.ss_sp = stack;
        context.uc_stack.ss_size = size & ~size_t(63);
        context.uc_link = nullptr;
        makecontext(&context, entry, 0);
    }
    void go_to(Fiber& other) { swapcontext(&context, &other.context); }
};
#endif

}  // namespace emulator
