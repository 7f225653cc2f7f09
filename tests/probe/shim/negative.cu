// Kernels for test_shim.py: each is right as it stands and wrong under one macro, which the shim has to notice.
extern "C" __global__ void __launch_bounds__(256) neighbour(float* x, float* tile) {
    tile[threadIdx.x] = x[threadIdx.x];
    // A shuffle waits for the other lanes, yet orders no memory.
    float other = __shfl_xor_sync(0xffffffffu, x[threadIdx.x], 1);
#ifndef WITHOUT_ORDER
    __syncwarp();
#endif
    x[threadIdx.x] = tile[threadIdx.x ^ 1] + other;
}

extern "C" __global__ void last_block_sums(float* parts, int* arrived, float* total) {
    if (threadIdx.x != 0) return;
    parts[blockIdx.x] = static_cast<float>(blockIdx.x + 1);
#ifndef WITHOUT_ORDER
    __threadfence();
#endif
    if (atomicAdd(arrived, 1) != static_cast<int>(gridDim.x) - 1) return;
    float sum = 0.0f;
    for (unsigned i = 0; i < gridDim.x; ++i) sum += parts[i];
    *total = sum;
}

extern "C" __global__ void passes_on(int* turn, int* order) {  // block b waits for block b - 1
    if (threadIdx.x == 0) {
        const int mine = static_cast<int>(blockIdx.x);
        while (atomicAdd(turn, 0) != mine) __syncwarp(1u);
        order[mine] = mine;
        atomicAdd(turn, 1);
    }
}

extern "C" __global__ void accumulates(int* sum, int* last) {
    atomicAdd(sum, static_cast<int>(threadIdx.x));
    atomicExch(last, static_cast<int>(blockDim.x));
}

extern "C" __global__ void collects(int* out, int active) {
    const int lane = static_cast<int>(threadIdx.x);
    if (lane >= active) return;  // exited lanes no longer count
    int sum = lane;
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    int* mine = out + 4 * lane;
    mine[0] = sum, mine[1] = static_cast<int>(__ballot_sync(0xffffffffu, lane & 1));
    mine[2] = __shfl_sync(0xffffffffu, lane, 3);
    // Two halves that meet each under its own mask.
    mine[3] = static_cast<int>(__ballot_sync(lane < 16 ? 0x0000ffffu : 0xffff0000u, lane % 16 == 5));
}

extern "C" __global__ void leaves_itself_out(int* out) { out[threadIdx.x] = __shfl_sync(1u, 3, 0); }

extern "C" __global__ void disagrees(int* out) { out[threadIdx.x] = __shfl_sync(threadIdx.x ? 7u : 3u, 3, 0); }

extern "C" __global__ void hangs() { __syncwarp(threadIdx.x == 1 ? 6u : 7u); }  // 0 and 2 wait for 1, which waits for 2

extern "C" __global__ void overflows(int* x) { x[0] = x[0] + 1; }
