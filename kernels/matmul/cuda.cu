// Products of matrices, a tile of c each block, from operands that lie either way.
#include "product.cuh"

// c (M,N) = a b + bias, clipped at zero if relu, of each batch; a is (M,K) or with A_BY_K 0 (K,M), b (N,K) or with
// B_BY_K 0 (K,N). If `parts` (batches, splits, M, N) are not null, sums of parts of the k's go there instead.
//     grid: see Task        steps: numbers from batch to batch
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) multiply(const T* a, const T* b, O* c, float* parts,
                                                               const float* bias, int relu, int M, int N, int K,
                                                               int64 a_step, int64 b_step, int64 c_step) {
    DYN_SMEM(T, scratch);
    const Task task(M, N, K);
    const Matrix<A_BY_K, A_VECTOR> left{a + task.product * a_step, A_BY_K ? K : M, task.top, M, K};
    const Matrix<B_BY_K, B_VECTOR> right{b + task.product * b_step, B_BY_K ? K : N, task.left, N, K};
    if (parts) {
        Sink<float, InOrder> sink{parts + task.part * (int64)M * N, nullptr, 0, task.top, task.left, M, N, {N}};
        product(scratch, left, right, task.begin, task.end, sink);
    } else {
        Sink<O, InOrder> sink{c + task.product * c_step, bias, relu, task.top, task.left, M, N, {N}};
        product(scratch, left, right, task.begin, task.end, sink);
    }
}
