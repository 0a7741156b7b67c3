// What the compiler's checks of indices, alignment and divisors call, instead of the library that it brings for them.
#pragma once
#include "block.h"

namespace emulator {

struct Place {
    const char* file;
    unsigned line, column;
};
struct TypeName {
    uint16_t kind, information;
    char text[1];  // with quotation marks
};
struct BadAddress {
    Place place;
    const TypeName* type;
    unsigned char log_alignment, use;
};
struct BadIndex {
    Place place;
    const TypeName *array, *index;
};
struct BadDivision {
    Place place;
    const TypeName* type;
};

}  // namespace emulator

#define CUDA_CPU_CHECK extern "C" __attribute__((visibility("hidden"), used)) void
CUDA_CPU_CHECK __ubsan_handle_type_mismatch_v1_abort(emulator::BadAddress* bad, uintptr_t address) {
    emulator::fail("%s:%u: the address %#zx of %s is not a multiple of %d", bad->place.file, bad->place.line,
                   size_t(address), bad->type->text, 1 << bad->log_alignment);
}
CUDA_CPU_CHECK __ubsan_handle_out_of_bounds_abort(emulator::BadIndex* bad, uintptr_t index) {
    emulator::fail("%s:%u: index %lld of %s", bad->place.file, bad->place.line, (long long)index,
                   bad->array->text);
}
CUDA_CPU_CHECK __ubsan_handle_divrem_overflow_abort(emulator::BadDivision* bad, uintptr_t, uintptr_t) {
    emulator::fail("%s:%u: divides %s by zero", bad->place.file, bad->place.line, bad->type->text);
}
#undef CUDA_CPU_CHECK
