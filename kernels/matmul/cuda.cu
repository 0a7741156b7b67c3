// Products of matrices, a tile of c each block, from operands that lie either way.
#include "product.cuh"

// c (M,N) = a b + bias, clipped at zero if relu, of each batch; a is (M,K) or with A_BY_K 0 (K,M), b (N,K) or with
// B_BY_K 0 (K,N). With splits > 1 a block sums a part of the k's, into parts (splits, M, N).
//     grid: tiles of M, tiles of N, batches * splits        steps: numbers from batch to batch
extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) multiply(const T* a, const T* b, O* c, float* parts,
                                                               const float* bias, int relu, int M, int N, int K,
                                                               int64 a_step, int64 b_step, int64 c_step, int splits) {
    DYN_SMEM(T, room);
    const int top = blockIdx.x * BM, left = blockIdx.y * BN, batch = blockIdx.z / splits, part = blockIdx.z % splits;
    const int each = (K + splits * DEPTH - 1) / (splits * DEPTH) * DEPTH, begin = min(part * each, K);
    const Matrix<A_BY_K, A_VECTOR> left_one{a + batch * a_step, A_BY_K ? K : M, top, M, K};
    const Matrix<B_BY_K, B_VECTOR> right_one{b + batch * b_step, B_BY_K ? K : N, left, N, K};
    const int end = min(begin + each, K);
    if (splits > 1) {
        Sink<float, InOrder> sink{parts + part * (int64)M * N, nullptr, 0, top, left, M, N, {N}};
        product(room, left_one, right_one, begin, end, sink);
    } else {
        Sink<O, InOrder> sink{c + batch * c_step, bias, relu, top, left, M, N, {N}};
        product(room, left_one, right_one, begin, end, sink);
    }
}
