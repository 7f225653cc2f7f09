// Kernels for test_shim.py: each is right as it stands and wrong under one macro, which the shim has to notice.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

extern "C" __global__ void __launch_bounds__(256) reverse(const float* __restrict__ x, float* y) {
    extern __shared__ float tile[];
    tile[threadIdx.x] = x[blockIdx.x * blockDim.x + threadIdx.x];
#ifndef WITHOUT_ORDER
    __syncthreads();
#endif
    y[blockIdx.x * blockDim.x + threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

extern "C" __global__ void neighbour(float* x) {
    __shared__ float tile[32];
    tile[threadIdx.x] = x[threadIdx.x];
    // A shuffle waits for the other lanes, yet orders no memory.
    float other = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1);
#ifndef WITHOUT_ORDER
    __syncwarp();
#endif
    x[threadIdx.x] = tile[threadIdx.x ^ 1] + other;
}

extern "C" __global__ void last_block_sums(float* parts, unsigned* arrived, float* total) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = static_cast<float>(blockIdx.x + 1);
#ifndef WITHOUT_ORDER
        __threadfence();
#endif
        last = atomicAdd(arrived, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (!last || threadIdx.x != 1) return;
    float sum = 0.0f;
    for (unsigned i = 0; i < gridDim.x; ++i) sum += parts[i];
    *total = sum;
}

extern "C" __global__ void passes_on(int* turn, int* order) {  // block b waits for block b - 1
    if (threadIdx.x == 0) {
        const int mine = static_cast<int>(blockIdx.x);
        while (atomicAdd(turn, 0) != mine) __nanosleep(100);
        order[mine] = mine;
        atomicAdd(turn, 1);
    }
}

extern "C" __global__ void accumulates(float* sums, int* most, int* least, unsigned long long* wide, unsigned* claimed) {
    atomicAdd(&sums[0], 0.5f);
    atomicMax(most, static_cast<int>(threadIdx.x) - 7);
    atomicMin(least, static_cast<int>(threadIdx.x) - 7);
    atomicAdd(wide, 1ULL << 33);
    atomicCAS(claimed, 0u, 9u);
}

extern "C" __global__ void collects(int* out, int active) {
    const int lane = static_cast<int>(threadIdx.x);
    if (lane >= active) return;  // exited lanes no longer count
    int sum = lane;
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    const unsigned odd = __ballot_sync(0xffffffffu, lane & 1);
    const int below = __shfl_up_sync(0xffffffffu, lane, 1), above = __shfl_down_sync(0xffffffffu, lane, 1, 8);
    const int quarter = __shfl_sync(0xffffffffu, lane, 3, 8);
    if (lane < 16) {  // two halves that meet each under its own mask
        sum += __any_sync(0x0000ffffu, lane == 5) ? 1000 : 0;
    } else {
        sum += __all_sync(0xffff0000u, lane >= 16) ? 2000 : 0;
    }
    int* mine = out + 6 * lane;
    mine[0] = sum, mine[1] = static_cast<int>(odd), mine[2] = below, mine[3] = above, mine[4] = quarter;
    mine[5] = __syncthreads_count(lane < 3);
}

extern "C" __global__ void leaves_itself_out(int* out) { out[threadIdx.x] = __shfl_sync(1u, 3, 0); }

extern "C" __global__ void hangs(int* out) {
    if (threadIdx.x == 0) {
        while (atomicAdd(out, 0) == 0) __syncwarp(1u);
    }
    if (threadIdx.x < 2) __syncthreads();
    else __syncwarp(0x3u << 2 | 0x3u);
}

extern "C" __global__ void oversteps_dynamic(float* x, int by) {
    extern __shared__ float dynamic[];
    dynamic[0] = 1.0f;
    x[0] = dynamic[7 + by];
}

extern "C" __global__ void oversteps_static(float* x, int by) {
    __shared__ float fixed[8];
    fixed[0] = 1.0f;
    x[0] = fixed[7 + by];
}

extern "C" __global__ void overflows(int* x) { x[0] = x[0] + 1; }

extern "C" __global__ void halves(const unsigned short* bits, float* as_half, float* as_bfloat, int n) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n) return;
    as_half[i] = __half2float(__ushort_as_half(bits[i]));
    as_bfloat[i] = __bfloat162float(__ushort_as_bfloat16(bits[i]));
}

extern "C" __global__ void rounds(const float* x, __half* as_half, __nv_bfloat16* as_bfloat, int n) {
    const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= n) return;
    as_half[i] = __float2half(x[i]);
    as_bfloat[i] = __float2bfloat16(x[i]);
}

template <class T> __global__ void doubles(T* x) { x[threadIdx.x] = x[threadIdx.x] + x[threadIdx.x]; }
