// Sums over rows, in a fixed order. Defines: ACT_BF16 (the type of x).

// partial[chunk, j] = the sum of x[r, j] over the chunk's rows.
extern "C" __global__ void column_partials(float *__restrict__ partial, const act *__restrict__ x, int rows, int cols, int chunk) {
    int j = blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= cols) return;
    int first = blockIdx.y * chunk, last = min(rows, first + chunk);
    float total = 0.0f;
    for (int r = first; r < last; r++) total += to_f32(x[(long long)r * cols + j]);
    partial[(long long)blockIdx.y * cols + j] = total;
}

// out[j] = the chunks' sum, in order; of one array, or of two by one launch.
extern "C" __global__ void add_chunks(float *__restrict__ out0, const float *__restrict__ partial0, int cols0,
                                      float *__restrict__ out1, const float *__restrict__ partial1, int cols1, int chunks) {
    int j = blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= cols0 + cols1) return;
    bool second = j >= cols0;
    const float *partial = second ? partial1 : partial0;
    int cols = second ? cols1 : cols0, at = second ? j - cols0 : j;
    float total = 0.0f;
    for (int c = 0; c < chunks; c++) total += partial[(long long)c * cols + at];
    (second ? out1 : out0)[at] = total;
}
