// Included once for each instruction set, inside its namespace, after `Marks` and `decimal_of`: whole lines are parsed from
// the places of their delimiters, found many bytes at a time; a line or field of unusual form goes to the plain parser.
// No include guard, no includes: see parse.cpp.

constexpr std::size_t REGION = 8192, ROOM = REGION + 128;

// Whole lines of at most REGION bytes from `p`, as the places (from p) of line ends, `a` and `b`.
struct Region {
    const Byte* p;
    std::size_t count = 0, lines = 0;  // places; those up to and with the last line end
    std::uint16_t at[ROOM];
    void find(const Byte* stop, Byte a, Byte b) {
        const std::size_t left = static_cast<std::size_t>(stop - p), size = left < REGION ? left : REGION;
        const std::size_t blocks = size / 64 * 64;
        const Marks marks(a, b);
        std::uint16_t* end = at;
        for (std::size_t i = 0; i < blocks; i += 64) end = marks.places(p + i, i, end);
        if (blocks < size) {
            Byte tail[64];
            std::memset(tail, 0, sizeof tail);
            std::memcpy(tail, p + blocks, size - blocks);
            end = marks.places(tail, blocks, end);
        }
        count = static_cast<std::size_t>(end - at);
        for (lines = count; lines && p[at[lines - 1]] != '\n';) --lines;
    }
};

inline std::uint64_t eight(const Byte* p) {
    std::uint64_t x;
    std::memcpy(&x, p, 8);
    return x;
}

// The number whose `size` (1..8) decimal digits end before `end`; `bad` gets bits where they are no digits.
inline std::uint64_t whole(const Byte* end, std::uint64_t size, std::uint64_t& bad) {
    const std::uint64_t shift = 64 - 8 * size;
    std::uint64_t x = (eight(end - 8) ^ 0x3030303030303030ull) >> (shift & 63) << (shift & 63);
    bad |= ((x + 0x7676767676767676ull) | x) & 0x8080808080808080ull;
    x = x * 10 + (x >> 8);
    return (((x & 0x000000FF000000FFull) * 0x000F424000000064ull) + ((x >> 16 & 0x000000FF000000FFull) * 0x0000271000000001ull)) >> 32;
}

// The same of 1..4 digits, in half the work.
inline std::uint32_t brief(const Byte* end, std::size_t size, std::uint32_t& bad) {
    std::uint32_t x;
    std::memcpy(&x, end - 4, 4);
    const unsigned shift = 32 - 8 * static_cast<unsigned>(size);
    x = (x ^ 0x30303030u) >> (shift & 31) << (shift & 31);
    bad |= ((x + 0x76767676u) | x) & 0x80808080u;
    return ((x * 10 + (x >> 8)) & 0x00FF00FFu) * 0x00640001u >> 16;
}

// A label of one digit, perhaps signed.
inline bool label_of(const Byte* s, const Byte* e, float& y) {
    const auto size = e - s;
    const unsigned d = static_cast<unsigned>(e[-1]) - '0';
    if (d > 9 || size > 2 || (size == 2 && *s != '-' && *s != '+')) return false;
    y = static_cast<float>(d);
    if (size == 2 && *s == '-') y = -y;
    return true;
}

// One line from place `i` on, all keys and values plain; false where it is of another form (`i` is then anywhere in it).
template <int M>
inline bool pairs_of(const Region& r, std::size_t& i, std::size_t line, const base::Keys& k, base::Filled& filled, base::Sink& sink) {
    const Byte* const p = r.p;
    const std::uint16_t* at = r.at + i;
    std::size_t sep = *at++;
    float y;
    if (sep == line || p[sep] == ':' || !(label_of(p + line, p + sep, y) || base::plain(p + line, p + sep, y))) return false;
    const std::uint64_t first = static_cast<std::uint64_t>(k.first);
    const std::uint32_t mask = k.mask;
    std::int64_t ones = sink.done.ones;
    filled.begin(sink.done.nnz);
    std::uint32_t *const keys = sink.out.keys + sink.done.nnz, *key = keys;
    float* const values = sink.out.values + sink.done.nnz;
    std::uint64_t bad = 0;
    while (p[sep] != '\n') {
        const std::size_t c = at[0], e = at[1];
        if (p[c] != ':') {
            if (p[c] != '\n' || c != sep + 1) return false;
            ++at;
            break;
        }
        const std::size_t size = c - sep - 1;
        std::uint64_t index;
        if (size - 1 < 4) {
            std::uint32_t odd = 0;
            index = brief(p + c, size, odd) - first;
            bad |= odd;
        } else {
            bad |= size - 1 > 7;
            index = whole(p + c, size, bad) - first;
        }
        if (M == exact) bad |= index > mask;
        else bad |= index >> 63;
        if (M == hashed) index = base::mix(index);
        *key++ = static_cast<std::uint32_t>(index) & mask;
        if (e != c + 2 || p[c + 1] != '1' || !ones) {
            const unsigned d = static_cast<unsigned>(p[c + 1]) - '0';
            float value = static_cast<float>(static_cast<int>(d));
            if ((e != c + 2 || d > 9) && (bad || p[e] == ':' || (!decimal_of(p + c + 1, p + e, value) && !base::plain(p + c + 1, p + e, value))))
                return false;
            if (value != 1 && ones) filled.up_to(sink.done.nnz + (key - keys) - 1), ones = 0;
            if (!ones) values[key - keys - 1] = value;
        }
        bad |= p[e] == ':';
        sep = e;
        at += 2;
    }
    if (bad) return false;
    i = static_cast<std::size_t>(at - r.at);
    Result& done = sink.done;
    sink.out.y[done.rows] = y;
    sink.out.at[done.rows] = p + line - sink.data;
    sink.out.indptr[++done.rows] = done.nnz += key - keys;
    done.ones = ones;
    return true;
}

template <int M>
inline Result libsvm_of(const Byte* data, std::size_t size, const base::Keys& k, const Out& out) {
    base::Sink sink{out, data};
    base::Filled filled{out.values};
    const Byte *p = data, *stop = data + size;
    out.indptr[0] = 0;
    Region r{};
    while (p < stop) {
        r.p = p;
        r.find(stop, ':', ' ');
        std::size_t line = 0;
        for (std::size_t i = 0; i < r.lines;) {
            const std::size_t from = i;
            if (p + line < data + 32 || !pairs_of<M>(r, i, line, k, filled, sink)) {
                for (i = from; p[r.at[i]] != '\n';) ++i;
                base::row(data, p + line, p + r.at[i++], k, filled, sink);
            }
            line = r.at[i - 1] + 1u;
        }
        p += line;
        if (!r.lines) {  // a line longer than a region, or the last, without an end
            const Byte* end = base::line_end(p, stop);
            base::row(data, p, end, k, filled, sink);
            p = end < stop ? end + 1 : stop;
        }
    }
    return sink.done;
}

inline Result libsvm(const Byte* data, std::size_t size, std::int64_t first, int mode, std::uint32_t mask, const Out& out) {
    const base::Keys k{first, mode, mask};
    return mode == exact ? libsvm_of<exact>(data, size, k, out) : mode == masked ? libsvm_of<masked>(data, size, k, out)
                                                                                 : libsvm_of<hashed>(data, size, k, out);
}

// One field [s, e) without quotes into its row; 0, or the code of its fault.
inline std::int64_t cell_of(const Byte* s, const Byte* e, std::int64_t column, const Csv& plan, const Out& out, base::Row& row) {
    const std::uint8_t kind = plan.kinds[column];
    if (kind == skip) return 0;
    float value;
    if ((kind == numeric || kind == target) && decimal_of(s, e, value)) {
        if (kind == target) row.y = value;
        else if (out.x) *row.x++ = value;
        else {
            out.keys[row.nnz] = static_cast<std::uint32_t>(base::mix(plan.seeds[column])) & plan.mask;
            out.values[row.nnz++] = value;
        }
        return 0;
    }
    while (s < e && *s == ' ' && plan.delimiter != ' ') ++s;
    while (e > s && base::blank(e[-1])) --e;
    return base::cell(base::Field{s, e, false, false}, column, plan, out, row);
}

// The line from place `i` on, without quotes; false where its columns do not match or a field is at fault.
inline bool record_of(const Region& r, std::size_t& i, std::size_t line, const Csv& plan, base::Sink& sink) {
    const Byte *p = r.p, *s = p + line;
    if (*s == '\r' || *s == '\n') return false;
    const Out& out = sink.out;
    std::int64_t& rows = sink.done.rows;
    base::Row row{std::numeric_limits<float>::quiet_NaN(), out.x ? out.x + rows * plan.width : nullptr, sink.done.nnz};
    const std::int64_t last = plan.columns - 1;
    for (std::int64_t column = 0; column < last; ++column) {
        const Byte* e = p + r.at[i];
        if (*e == '\n' || cell_of(s, e, column, plan, out, row)) return false;
        ++i;
        s = e + 1;
    }
    const Byte* e = p + r.at[i];
    if (*e != '\n') return false;
    ++i;
    if (e > s && e[-1] == '\r') --e;
    if (cell_of(s, e, last, plan, out, row)) return false;
    out.y[rows] = row.y;
    out.at[rows++] = p + line - sink.data;
    if (out.indptr) out.indptr[rows] = sink.done.nnz = row.nnz;
    return true;
}

inline Result csv(const Byte* data, std::size_t size, const Csv& plan, const Out& out) {
    base::Sink sink{out, data};
    sink.done.ones = 0;
    const Byte *p = data, *stop = data + size;
    if (out.indptr) out.indptr[0] = 0;
    const bool plain = plan.lines && plan.delimiter && plan.delimiter != '\r';
    Region r{};
    while (p < stop) {
        r.p = p;
        r.lines = 0;
        if (plain) r.find(stop, plan.delimiter, plan.delimiter);
        std::size_t line = 0;
        const std::size_t end = r.lines ? r.at[r.lines - 1] + 1u : 0;
        const bool quotes = r.lines && std::memchr(p, '"', end);
        for (std::size_t i = 0; i < r.lines;) {
            const std::size_t from = i;
            if (quotes || p + line < data + 32 || !record_of(r, i, line, plan, sink)) {
                for (i = from; p[r.at[i]] != '\n';) ++i;
                const Byte* at = p + line;
                base::row(data, at, p + r.at[i++] + 1, plan, sink);
            }
            line = r.at[i - 1] + 1u;
        }
        p += line;
        if (!r.lines) base::row(data, p, stop, plan, sink);
    }
    return sink.done;
}
