// Sums of products over a vector type V of V::width bytes; included once for each ISA, inside its namespace and target.
// Two vectors of up to four outputs are held in registers while the data go by.

template <int rows>
inline void rows_of(const u8* matrix, std::size_t k, const u8* const* data, u8* const* out, std::size_t start, std::size_t stop, bool keep) {
    for (std::size_t p = start; p < stop; p += 2 * V::width) {
        typename V::R low[rows], high[rows];
        for (int r = 0; r < rows; ++r) {
            low[r] = keep ? V::load(out[r] + p) : V::zero();
            high[r] = keep ? V::load(out[r] + p + V::width) : V::zero();
        }
        for (std::size_t i = 0; i < k; ++i) {
            const typename V::X x(V::load(data[i] + p)), y(V::load(data[i] + p + V::width));
            for (int r = 0; r < rows; ++r) {
                const typename V::Factor c(matrix[static_cast<std::size_t>(r) * k + i]);
                low[r] = V::sum(low[r], c.times(x));
                high[r] = V::sum(high[r], c.times(y));
            }
        }
        for (int r = 0; r < rows; ++r) {
            V::store(out[r] + p, low[r]);
            V::store(out[r] + p + V::width, high[r]);
        }
    }
}

inline void dot(const u8* matrix, std::size_t k, std::size_t m, const u8* const* data, u8* const* out, std::size_t n, bool keep) {
    const std::size_t whole = n / (2 * V::width) * (2 * V::width);
    for (std::size_t at = 0; at < whole; at += strip) {
        const std::size_t stop = std::min(at + strip, whole);
        for (std::size_t j = 0; j < m; j += 4) {
            const u8* row = matrix + j * k;
            switch (std::min<std::size_t>(4, m - j)) {
                case 1: rows_of<1>(row, k, data, out + j, at, stop, keep); break;
                case 2: rows_of<2>(row, k, data, out + j, at, stop, keep); break;
                case 3: rows_of<3>(row, k, data, out + j, at, stop, keep); break;
                default: rows_of<4>(row, k, data, out + j, at, stop, keep);
            }
        }
    }
    base::part(matrix, k, m, data, out, whole, n, keep);
}
