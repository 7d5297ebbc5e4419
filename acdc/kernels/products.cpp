// Products of an unstructured sparse matrix with dense planes: what a pruned convolution or linear
// layer computes forwards, for the gradient of its input, and for that of its weights.
//
// Activations are stored as [block][channel][row][column][lane], where a lane is one image (or token)
// of a block, so that a vector register holds one position of many images and every access is
// contiguous. A non-zero weight is a value and an offset: where its input lies, relative to the output
// position. A tile of output positions stays in registers while a row of non-zeros is read, so that
// each multiply-add costs one load and no store.
//
// This file is compiled once for each instruction set. FLOATS is how many single-precision numbers of
// a tile fit into its registers.

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#ifndef FLOATS
#define FLOATS 48
#endif

namespace {

using std::int64_t;

template <class S, int L> struct Vector {
    typedef S type __attribute__((vector_size(sizeof(S) * L), aligned(alignof(S)), may_alias));
};

template <class S> struct Product {
    const int64_t *starts;    // where the non-zeros of each group's each row begin, and the end
    const std::int32_t *offsets;
    int64_t groups;           // of input channels that fit into the first cache together
    int64_t rows;             // output channels
    int64_t tile_columns, tile_log_rows;
    int64_t blocks, height, width; // output positions
    int64_t x_block, x_height, x_width;
    int64_t y_block, y_row, y_height, y_width;
};

// A tile of R x T output positions, for a range of rows. X: lanes between two positions of the input.
template <class S, int L, int X, int R, int T> struct Tile {
    using V = typename Vector<S, L>::type;

    static V load(const S *p) { return *reinterpret_cast<const V *>(p); }

    static void forward(const Product<S> &a, const S *values, const S *bias, const S *x, S *y,
                        int64_t group, int64_t first, int64_t last) {
        const int64_t *starts = a.starts + group * a.rows;
        for (int64_t row = first; row < last; row++) {
            if (group > 0 && starts[row] == starts[row + 1]) continue;
            S *out = y + row * a.y_row;
            V sums[R][T];
#pragma GCC unroll 4
            for (int r = 0; r < R; r++)
#pragma GCC unroll 16
                for (int t = 0; t < T; t++)
                    sums[r][t] = group > 0 ? load(out + r * a.y_height + t * a.y_width)
                                           : V{} + (bias ? bias[row] : S(0));
            for (int64_t k = starts[row]; k < starts[row + 1]; k++) {
                const S *p = x + a.offsets[k];
                const S value = values[k];
#pragma GCC unroll 4
                for (int r = 0; r < R; r++)
#pragma GCC unroll 16
                    for (int t = 0; t < T; t++)
                        sums[r][t] += value * load(p + r * a.x_height + t * X * L);
            }
#pragma GCC unroll 4
            for (int r = 0; r < R; r++)
#pragma GCC unroll 16
                for (int t = 0; t < T; t++)
                    *reinterpret_cast<V *>(out + r * a.y_height + t * a.y_width) = sums[r][t];
        }
    }

    // Adds the tile's part of the gradient of every non-zero.
    static void weights(const Product<S> &a, S *gradients, const S *x, const S *y, int64_t group,
                        int64_t first, int64_t last) {
        const int64_t *starts = a.starts + group * a.rows;
        for (int64_t row = first; row < last; row++) {
            int64_t k = starts[row];
            const int64_t end = starts[row + 1];
            if (k == end) continue;
            const S *in = y + row * a.y_row;
            V errors[R][T];
#pragma GCC unroll 4
            for (int r = 0; r < R; r++)
#pragma GCC unroll 16
                for (int t = 0; t < T; t++)
                    errors[r][t] = load(in + r * a.y_height + t * a.y_width);
            for (; k + 4 <= end; k += 4) {
                const S *p[4];
                V sums[4];
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++) {
                    p[j] = x + a.offsets[k + j];
                    sums[j] = V{};
                }
#pragma GCC unroll 4
                for (int r = 0; r < R; r++)
#pragma GCC unroll 16
                    for (int t = 0; t < T; t++)
#pragma GCC unroll 4
                        for (int j = 0; j < 4; j++)
                            sums[j] += errors[r][t] * load(p[j] + r * a.x_height + t * X * L);
                typename Vector<S, 4>::type total;
#pragma GCC unroll 4
                for (int j = 0; j < 4; j++)
                    total[j] = reduce(sums[j]);
                *reinterpret_cast<typename Vector<S, 4>::type *>(gradients + k) += total;
            }
            for (; k < end; k++) {
                const S *p = x + a.offsets[k];
                V sum = {};
#pragma GCC unroll 4
                for (int r = 0; r < R; r++)
#pragma GCC unroll 16
                    for (int t = 0; t < T; t++)
                        sum += errors[r][t] * load(p + r * a.x_height + t * X * L);
                gradients[k] += reduce(sum);
            }
        }
    }

    static S reduce(V v) { return fold(v); }

  private:
    static S fold(typename Vector<S, 16>::type v) {
        typename Vector<S, 8>::type half[2];
        std::memcpy(half, &v, sizeof v);
        return fold(half[0] + half[1]);
    }
    static S fold(typename Vector<S, 8>::type v) {
        typename Vector<S, 4>::type half[2];
        std::memcpy(half, &v, sizeof v);
        return fold(half[0] + half[1]);
    }
    static S fold(typename Vector<S, 4>::type v) { return (v[0] + v[2]) + (v[1] + v[3]); }
};

template <class S> using Forward = void (*)(const Product<S> &, const S *, const S *, const S *, S *,
                                            int64_t, int64_t, int64_t);
template <class S> using Weights = void (*)(const Product<S> &, S *, const S *, const S *, int64_t,
                                            int64_t, int64_t);

// Tiles of up to `most` positions of L lanes, by their shape.
template <class S, int L, int X> struct Tiles {
    static constexpr int most = FLOATS / L < 16 ? FLOATS / L : 16;

    template <int R, int T> static constexpr Forward<S> forward_of() {
        if constexpr (R * T <= most) return Tile<S, L, X, R, T>::forward;
        else return nullptr;
    }
    template <int R, int T> static constexpr Weights<S> weights_of() {
        if constexpr (R * T <= most) return Tile<S, L, X, R, T>::weights;
        else return nullptr;
    }
    template <int R, std::size_t... T>
    static constexpr std::array<Forward<S>, sizeof...(T)> forwards(std::index_sequence<T...>) {
        return {forward_of<R, int(T) + 1>()...};
    }
    template <int R, std::size_t... T>
    static constexpr std::array<Weights<S>, sizeof...(T)> weights_(std::index_sequence<T...>) {
        return {weights_of<R, int(T) + 1>()...};
    }
    using Columns = std::make_index_sequence<std::size_t(most)>;
    // By the binary logarithm of the rows, and the columns less one.
    static constexpr std::array<std::array<Forward<S>, most>, 3> forward = {
        forwards<1>(Columns{}), forwards<2>(Columns{}), forwards<4>(Columns{})};
    static constexpr std::array<std::array<Weights<S>, most>, 3> weights = {
        weights_<1>(Columns{}), weights_<2>(Columns{}), weights_<4>(Columns{})};
};

// Calls visit(row, column, log_rows, columns) for each tile of one band of rows.
template <class S, class F> void band(const Product<S> &a, int64_t top, F visit) {
    const int64_t rows = int64_t(1) << a.tile_log_rows;
    const bool whole = top + rows <= a.height;
    for (int64_t row = top; row < (whole ? top + 1 : a.height); row++)
        for (int64_t column = 0; column < a.width; column += a.tile_columns)
            visit(row, column, whole ? a.tile_log_rows : 0,
                  a.tile_columns < a.width - column ? a.tile_columns : a.width - column);
}

// The first row of each part of the work, by their numbers of non-zeros.
template <class S> std::vector<int64_t> split(const Product<S> &a, int parts) {
    const int64_t overhead = 4; // of a row in each group, in non-zeros
    std::vector<int64_t> firsts(parts + 1, a.rows);
    const int64_t total = a.starts[a.groups * a.rows] + overhead * a.groups * a.rows;
    int64_t done = 0;
    int part = 0;
    for (int64_t row = 0; row < a.rows; row++) {
        while (part < parts && done * parts >= total * part) firsts[part++] = row;
        for (int64_t group = 0; group < a.groups; group++) {
            const int64_t *starts = a.starts + group * a.rows + row;
            done += starts[1] - starts[0] + overhead;
        }
    }
    return firsts;
}

template <class S, int L, int X>
void forward(const Product<S> &a, const S *values, const S *bias, const S *x, S *y, int threads) {
    const int64_t bands = (a.height + (int64_t(1) << a.tile_log_rows) - 1) >> a.tile_log_rows;
    // Few bands are shared by threads, each with a part of the rows.
    const int parts = a.blocks * bands < 4 * threads ? threads : 1;
    const std::vector<int64_t> firsts = split(a, parts);
#pragma omp parallel for collapse(3) schedule(static) num_threads(threads) if (threads > 1)
    for (int part = 0; part < parts; part++)
        for (int64_t block = 0; block < a.blocks; block++)
            for (int64_t index = 0; index < bands; index++)
                band(a, index << a.tile_log_rows,
                     [&](int64_t row, int64_t column, int64_t log_rows, int64_t columns) {
                         for (int64_t group = 0; group < a.groups; group++)
                             Tiles<S, L, X>::forward[log_rows][columns - 1](
                                 a, values, bias,
                                 x + block * a.x_block + row * a.x_height + column * a.x_width,
                                 y + block * a.y_block + row * a.y_height + column * a.y_width,
                                 group, firsts[part], firsts[part + 1]);
                     });
}

template <class S, int L, int X>
void weights(const Product<S> &a, S *gradients, const S *x, const S *y, int threads) {
    const int64_t bands = (a.height + (int64_t(1) << a.tile_log_rows) - 1) >> a.tile_log_rows;
    // A thread owns rows, so that sums do not depend on the number of threads.
    const std::vector<int64_t> firsts = split(a, threads);
    std::memset(gradients, 0, sizeof(S) * a.starts[a.groups * a.rows]);
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int part = 0; part < threads; part++)
        for (int64_t block = 0; block < a.blocks; block++)
            for (int64_t index = 0; index < bands; index++)
                band(a, index << a.tile_log_rows,
                     [&](int64_t row, int64_t column, int64_t log_rows, int64_t columns) {
                         for (int64_t group = 0; group < a.groups; group++)
                             Tiles<S, L, X>::weights[log_rows][columns - 1](
                                 a, gradients,
                                 x + block * a.x_block + row * a.x_height + column * a.x_width,
                                 y + block * a.y_block + row * a.y_height + column * a.y_width,
                                 group, firsts[part], firsts[part + 1]);
                     });
}

// A batch of matrices, [outer][inner][L rows][columns], that become [outer][inner][columns][L lanes].
struct Layout {
    int64_t outer, inner, columns;
    int64_t x_outer, x_inner, x_row; // numbers between neighbours in rows
    int64_t y_outer, y_inner, y_column;
    int64_t rows; // of all matrices together; those beyond are zeros
};

template <int D, class V, std::size_t... I> void exchange(V &a, V &b, std::index_sequence<I...>) {
    constexpr int n = sizeof...(I);
    const V low = __builtin_shufflevector(a, b, (int(I) & D ? n + int(I) - D : int(I))...);
    b = __builtin_shufflevector(a, b, (int(I) & D ? n + int(I) : int(I) + D)...);
    a = low;
}

template <int D, class V, int L> void transpose(V (&v)[L]) {
    if constexpr (D > 0) {
#pragma GCC unroll 16
        for (int i = 0; i < L; i++)
            if (!(i & D)) exchange<D>(v[i], v[i + D], std::make_index_sequence<L>{});
        transpose<D / 2>(v);
    }
}

template <class S, int L, bool PACK> void convert(const Layout &a, S *x, S *y, int threads) {
    using V = typename Vector<S, L>::type;
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t outer = 0; outer < a.outer; outer++)
        for (int64_t inner = 0; inner < a.inner; inner++) {
            S *rows = x + outer * a.x_outer + inner * a.x_inner;
            S *lanes = y + outer * a.y_outer + inner * a.y_inner;
            const int64_t left = a.rows - (outer * a.inner + inner) * L;
            const int valid = left >= L ? L : left > 0 ? int(left) : 0;
            int64_t column = 0;
            for (; valid == L && column + L <= a.columns; column += L) {
                V v[L];
#pragma GCC unroll 16
                for (int i = 0; i < L; i++)
                    v[i] = *reinterpret_cast<const V *>(
                        PACK ? rows + i * a.x_row + column : lanes + (column + i) * a.y_column);
                transpose<L / 2>(v);
#pragma GCC unroll 16
                for (int i = 0; i < L; i++)
                    *reinterpret_cast<V *>(
                        PACK ? lanes + (column + i) * a.y_column : rows + i * a.x_row + column) = v[i];
            }
            for (; column < a.columns; column++)
                for (int lane = 0; lane < L; lane++) {
                    S &y = lanes[column * a.y_column + lane];
                    if (PACK) y = lane < valid ? rows[lane * a.x_row + column] : S(0);
                    else if (lane < valid) rows[lane * a.x_row + column] = y;
                }
        }
}

// Copies planes of height x width numbers into the middle of planes of zeros.
template <class S>
void pad(const S *x, S *y, int64_t planes, int64_t height, int64_t width, int64_t top, int64_t bottom,
         int64_t left, int64_t right, int threads) {
    const int64_t row = left + width + right;
    const int64_t plane = (top + height + bottom) * row;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t index = 0; index < planes; index++) {
        const S *from = x + index * height * width;
        S *to = y + index * plane;
        std::memset(to, 0, sizeof(S) * (top * row + left));
        to += top * row + left;
        for (int64_t h = 0; h < height; h++, from += width, to += row) {
            std::memcpy(to, from, sizeof(S) * width);
            std::memset(to + width, 0, sizeof(S) * (h + 1 < height ? right + left : right));
        }
        std::memset(to - left, 0, sizeof(S) * bottom * row);
    }
}

// Batch normalisation of planes of numbers, with what follows it: a sum, and ReLU. Each channel is read
// repeatedly while it is in the cache. Partial sums of CHUNK numbers are added in double precision.
struct Batch {
    int64_t blocks, channels, plane; // numbers of a channel within a block
};
constexpr int64_t CHUNK = 1024;

// Calls visit(offset, count) for each chunk of a channel.
template <class F> void chunks(const Batch &a, int64_t channel, F visit) {
    for (int64_t block = 0; block < a.blocks; block++)
        for (int64_t i = 0; i < a.plane; i += CHUNK)
            visit((block * a.channels + channel) * a.plane + i,
                  a.plane - i < CHUNK ? a.plane - i : CHUNK);
}

template <class S, bool SUM, bool RELU>
void normalize(const Batch &a, double eps, const S *x, const S *other, S *y, const S *weight,
               const S *bias, S *means, S *variances, int threads) {
    const double count = double(a.blocks) * a.plane;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t channel = 0; channel < a.channels; channel++) {
        double total = 0;
        chunks(a, channel, [&](int64_t at, int64_t n) {
            const S *p = x + at;
            S sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < n; i++) sum += p[i];
            total += sum;
        });
        const S mean = S(total / count);
        total = 0;
        chunks(a, channel, [&](int64_t at, int64_t n) {
            const S *p = x + at;
            S sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < n; i++) sum += (p[i] - mean) * (p[i] - mean);
            total += sum;
        });
        const double variance = total / count;
        means[channel] = mean;
        variances[channel] = S(variance);
        const S scale = S(weight[channel] / std::sqrt(variance + eps));
        const S shift = bias[channel];
        chunks(a, channel, [&](int64_t at, int64_t n) {
            const S *p = x + at, *q = other + (SUM ? at : 0);
            S *out = y + at;
#pragma omp simd
            for (int64_t i = 0; i < n; i++) {
                S value = (p[i] - mean) * scale + shift;
                if (SUM) value += q[i];
                out[i] = RELU && value < 0 ? S(0) : value; // a NaN stays one
            }
        });
    }
}

// y: the output, for ReLU. other: gets the gradient of what was added, or null.
template <class S, bool RELU>
void normalize_backward(const Batch &a, double eps, const S *dy, const S *x, const S *y, S *dx,
                        S *other, const S *weight, const S *means, const S *variances, S *dweight,
                        S *dbias, int threads) {
    const double count = double(a.blocks) * a.plane;
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
    for (int64_t channel = 0; channel < a.channels; channel++) {
        const S mean = means[channel];
        double sums = 0, products = 0;
        chunks(a, channel, [&](int64_t at, int64_t n) {
            const S *g = dy + at, *p = x + at, *q = RELU ? y + at : g;
            S sum = 0, product = 0;
#pragma omp simd reduction(+ : sum, product)
            for (int64_t i = 0; i < n; i++) {
                const S error = !RELU || q[i] > 0 ? g[i] : S(0);
                sum += error;
                product += error * (p[i] - mean);
            }
            sums += sum;
            products += product;
        });
        const double inverse = 1 / std::sqrt(variances[channel] + eps);
        dweight[channel] = S(products * inverse);
        dbias[channel] = S(sums);
        const S scale = S(weight[channel] * inverse);
        const S slope = S(products * inverse * inverse / count), level = S(sums / count);
        chunks(a, channel, [&](int64_t at, int64_t n) {
            const S *g = dy + at, *p = x + at, *q = RELU ? y + at : g;
            S *out = dx + at, *summand = other ? other + at : out;
#pragma omp simd
            for (int64_t i = 0; i < n; i++) {
                const S error = !RELU || q[i] > 0 ? g[i] : S(0);
                summand[i] = error;
                out[i] = scale * (error - level - (p[i] - mean) * slope);
            }
        });
    }
}

} // namespace

// How many numbers of a tile fit into the registers.
extern "C" int acdc_tile() { return FLOATS; }

// Each returns 0, or 1 where there is no kernel for these lanes and this stride.
#define EXPORT(S)                                                                                   \
    extern "C" int acdc_forward_##S(const Product<S> *a, const S *values, const S *bias, const S *x, \
                                    S *y, int lanes, int stride, int threads) {                     \
        if (lanes == 16 && stride == 1) forward<S, 16, 1>(*a, values, bias, x, y, threads);         \
        else if (lanes == 16 && stride == 2) forward<S, 16, 2>(*a, values, bias, x, y, threads);    \
        else if (lanes == 8 && stride == 1) forward<S, 8, 1>(*a, values, bias, x, y, threads);      \
        else if (lanes == 8 && stride == 2) forward<S, 8, 2>(*a, values, bias, x, y, threads);      \
        else return 1;                                                                              \
        return 0;                                                                                   \
    }                                                                                               \
    extern "C" int acdc_weights_##S(const Product<S> *a, S *gradients, const S *x, const S *y,      \
                                    int lanes, int stride, int threads) {                           \
        if (lanes == 16 && stride == 1) weights<S, 16, 1>(*a, gradients, x, y, threads);            \
        else if (lanes == 16 && stride == 2) weights<S, 16, 2>(*a, gradients, x, y, threads);       \
        else if (lanes == 8 && stride == 1) weights<S, 8, 1>(*a, gradients, x, y, threads);         \
        else if (lanes == 8 && stride == 2) weights<S, 8, 2>(*a, gradients, x, y, threads);         \
        else return 1;                                                                              \
        return 0;                                                                                   \
    }                                                                                               \
    extern "C" int acdc_pack_##S(const Layout *a, const S *x, S *y, int lanes, int threads) {       \
        if (lanes == 16) convert<S, 16, true>(*a, const_cast<S *>(x), y, threads);                  \
        else if (lanes == 8) convert<S, 8, true>(*a, const_cast<S *>(x), y, threads);               \
        else return 1;                                                                              \
        return 0;                                                                                   \
    }                                                                                               \
    extern "C" int acdc_unpack_##S(const Layout *a, S *x, const S *y, int lanes, int threads) {     \
        if (lanes == 16) convert<S, 16, false>(*a, x, const_cast<S *>(y), threads);                 \
        else if (lanes == 8) convert<S, 8, false>(*a, x, const_cast<S *>(y), threads);              \
        else return 1;                                                                              \
        return 0;                                                                                   \
    }                                                                                               \
    extern "C" int acdc_pad_##S(const S *x, S *y, int64_t planes, int64_t height, int64_t width,    \
                                int64_t top, int64_t bottom, int64_t left, int64_t right,           \
                                int threads) {                                                      \
        pad(x, y, planes, height, width, top, bottom, left, right, threads);                        \
        return 0;                                                                                   \
    }                                                                                               \
    extern "C" int acdc_normalize_##S(const Batch *a, double eps, const S *x, const S *other, S *y, \
                                      const S *weight, const S *bias, S *means, S *variances,       \
                                      int relu, int threads) {                                      \
        const auto run = other ? relu ? normalize<S, true, true> : normalize<S, true, false>        \
                               : relu ? normalize<S, false, true> : normalize<S, false, false>;     \
        run(*a, eps, x, other, y, weight, bias, means, variances, threads);                         \
        return 0;                                                                                   \
    }                                                                                               \
    extern "C" int acdc_normalize_backward_##S(                                                     \
        const Batch *a, double eps, const S *dy, const S *x, const S *y, S *dx, S *other,           \
        const S *weight, const S *means, const S *variances, S *dweight, S *dbias, int relu,        \
        int threads) {                                                                              \
        const auto run = relu ? normalize_backward<S, true> : normalize_backward<S, false>;         \
        run(*a, eps, dy, x, y, dx, other, weight, means, variances, dweight, dbias, threads);       \
        return 0;                                                                                   \
    }

EXPORT(float)
EXPORT(double)
