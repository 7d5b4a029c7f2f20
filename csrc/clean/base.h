// Included once for each instruction set, inside its namespace: plain loops over columns, which the compiler makes vectors of.
// No include guard, no includes: see clean.cpp.

inline void standard(Shape s, const float* x, double* stats, bool fit, float* out) {
    double *const count = stats, *const mean = stats + s.d, *const square = stats + 2 * s.d;
    for (std::size_t i = 0; i < s.n; ++i, x += s.d, out += s.d) {
        for (std::size_t j = 0; j < s.d; ++j) {
            const double gap = x[j] - mean[j], more = gap / (count[j] + 1), part = square[j] / count[j];
            const double sd = __builtin_sqrt(part > 0 ? part : 1.0);
            const bool there = x[j] == x[j];
            out[j] = static_cast<float>(gap / sd);
            if (fit) {
                square[j] = there ? square[j] + gap * (gap - more) : square[j];
                mean[j] = there ? mean[j] + more : mean[j];
                count[j] = there ? count[j] + 1 : count[j];
            }
        }
    }
}

inline void impute(Shape s, const float* x, double* stats, Fill how, const float* constant, bool fit, float* out, float* flags) {
    double *const count = stats, *const value = stats + s.d;
    for (std::size_t i = 0; i < s.n; ++i, x += s.d, out += s.d) {
        for (std::size_t j = 0; j < s.d; ++j) {
            const bool there = x[j] == x[j];
            const double held = count[j] > 0 ? value[j] : static_cast<double>(constant[j]);
            const float fill = how == Fill::constant ? constant[j] : static_cast<float>(held);
            if (fit) {
                const double step = how == Fill::last ? x[j] : value[j] + (x[j] - value[j]) / (count[j] + 1);
                value[j] = there ? step : value[j];
                count[j] = there ? count[j] + 1 : count[j];
            }
            out[j] = there ? x[j] : fill;
        }
        if (flags) {
            for (std::size_t j = 0; j < s.d; ++j) flags[j] = x[j] == x[j] ? 0.0f : 1.0f;
            flags += s.d;
        }
    }
}

inline void minmax(Shape s, const float* x, double* edges, bool fit, float* out) {
    double *const low = edges, *const high = edges + s.d;
    for (std::size_t i = 0; i < s.n; ++i, x += s.d, out += s.d) {
        for (std::size_t j = 0; j < s.d; ++j) {
            const double v = x[j], wide = high[j] - low[j];
            double at = wide > 0 ? (v - low[j]) / wide : 0.5;
            at = at < 0 ? 0 : at;
            at = at > 1 ? 1 : at;
            out[j] = x[j] == x[j] ? static_cast<float>(at) : x[j];
            if (fit) {
                low[j] = v < low[j] ? v : low[j];
                high[j] = v > high[j] ? v : high[j];
            }
        }
    }
}

inline std::uint64_t outliers(Shape s, const float* x, double* stats, double z, double least, Far how, bool fit, float* out, std::uint8_t* keep) {
    double *const count = stats, *const mean = stats + s.d, *const square = stats + 2 * s.d;
    std::uint64_t found = 0;
    for (std::size_t i = 0; i < s.n; ++i, x += s.d, out += s.d) {
        std::uint64_t far = 0;
        for (std::size_t j = 0; j < s.d; ++j) {
            const double gap = x[j] - mean[j], reach = z * __builtin_sqrt(square[j] / (count[j] > 0 ? count[j] : 1));
            const bool there = x[j] == x[j], odd = there && count[j] >= least && square[j] > 0 && (gap > reach || gap < -reach);
            const double edge = mean[j] + (gap > 0 ? reach : -reach);
            out[j] = !odd || how == Far::drop ? x[j] : how == Far::clip ? static_cast<float>(edge) : __builtin_nanf("");
            far += odd;
            if (fit && there && !odd) {
                const double more = gap / (count[j] + 1);
                square[j] += gap * (gap - more);
                mean[j] += more;
                count[j] += 1;
            }
        }
        keep[i] = !(far && how == Far::drop);
        found += far;
    }
    return found;
}

inline void lag(Shape s, const float* x, std::size_t k, float* ring, bool fit, float* out) {
    const std::size_t row = s.d * sizeof(float);
    for (std::size_t i = 0; i < s.n; ++i) {
        float* to = out + i * s.d * (1 + k);
        std::memcpy(to, x + i * s.d, row);
        for (std::size_t l = 1; l <= k; ++l) {
            to += s.d;
            std::memcpy(to, l <= i ? x + (i - l) * s.d : ring + (k - (l - i)) * s.d, row);
        }
    }
    if (!fit) return;
    if (s.n >= k) {
        std::memcpy(ring, x + (s.n - k) * s.d, k * row);
    } else {
        std::memmove(ring, ring + s.n * s.d, (k - s.n) * row);
        std::memcpy(ring + (k - s.n) * s.d, x, s.n * row);
    }
}

// Sums are made anew for each row: w is short, and a running sum would carry every error on.
inline void rolling(Shape s, const float* x, std::size_t w, float* ring, std::uint64_t* seen, float* out) {
    for (std::size_t i = 0; i < s.n; ++i, x += s.d) {
        float* to = out + i * 3 * s.d;
        const std::size_t held = static_cast<std::size_t>(*seen < w ? *seen : w);
        for (std::size_t j = 0; j < s.d; ++j) {
            double sum = 0, square = 0, n = 0;
            for (std::size_t l = 0; l < held; ++l) {
                const double v = ring[l * s.d + j];
                sum += v == v ? v : 0;
                n += v == v;
            }
            const double mean = n > 0 ? sum / n : 0;
            for (std::size_t l = 0; l < held; ++l) {
                const double gap = ring[l * s.d + j] - mean;
                square += gap == gap ? gap * gap : 0;
            }
            to[j] = x[j];
            to[s.d + j] = static_cast<float>(mean);
            to[2 * s.d + j] = static_cast<float>(n > 0 ? __builtin_sqrt(square / n) : 0);
        }
        std::memcpy(ring + *seen % w * s.d, x, s.d * sizeof(float));
        ++*seen;
    }
}

inline const Ops table{standard, impute, minmax, outliers, lag, rolling};
