// Lanes of the class coder over a vector type V of V::width u32; included once for each ISA, inside its namespace and target.
// A lane holds 33..64 bits between values. The decoder takes code and offset from the low end and, when 32 or fewer are
// left, a word on top; the encoder does the reverse from the last value to the first, so both agree on every refill.

inline void classes(const u32* value, const u8* cond, std::size_t n, u32 base, u8* symbol) {
    const auto top = V::set(window - 1), zero = V::set(0);
    std::size_t i = 0;
    for (; i + V::width <= n; i += V::width) {
        const auto z = V::load(value + i), bits = V::width_of(z);
        const auto e = cond ? V::load8(cond + i) : zero;
        const auto s = V::sub(V::add(bits, e), V::set(base - 1));
        const auto bad = V::either(V::above(V::sub(s, V::set(1)), top), V::above(bits, V::set(widest)));
        V::store8(symbol + i, V::pick(V::equal(z, zero), zero, V::pick(bad, V::set(rare), s)));
    }
    for (; i < n; ++i) {
        const u32 bits = entropy::width_of(value[i]), s = bits + (cond ? cond[i] : 0) - (base - 1);
        symbol[i] = static_cast<u8>(!value[i] ? 0 : s - 1 > window - 1 || bits > widest ? rare : s);
    }
}

inline std::size_t runs(const u32* __restrict index, std::size_t n, bool& ascending) {
    u32 broken = 0, next = 0;
    for (std::size_t i = 1; i < n; ++i) {
        broken |= index[i] <= index[i - 1];
        next += index[i] - index[i - 1] == 1;
    }
    ascending = !broken;
    return n - next;
}

inline void emit(const u32* value, const u8* symbol, std::size_t n, const Code& code, u32 count, Lanes& lanes, u32*& word, u32*& odd) {
    const std::size_t whole = count == 32 ? n / 32 * 32 : 0;
    one_emit(value, symbol, whole, n, code, count, lanes, word, odd);
    constexpr int Q = 32 / V::width;
    const typename V::Codes codes(code);
    typename V::R lo[Q], hi[Q], left[Q];
    for (int q = 0; q < Q; ++q) {
        lo[q] = V::load(lanes.lo + q * V::width);
        hi[q] = V::load(lanes.hi + q * V::width);
        left[q] = V::load(lanes.left + q * V::width);
    }
    const auto c32 = V::set(32), c64 = V::set(64), zero = V::set(0);
    u32* p = word;
    for (std::size_t i = whole; i;) {
        i -= 32;
#pragma GCC unroll 4
        for (int q = Q - 1; q >= 0; --q) {
            auto z = V::load(value + i + q * V::width);
            const auto s = V::load8(symbol + i + q * V::width);
            const auto odds = V::equal(s, V::set(rare));
            if (__builtin_expect(V::any(odds), 0)) {
                odd = V::push(odd, odds, z);
                z = V::pick(odds, zero, z);
            }
            typename V::R size, bits;
            codes.find(s, size, bits);
            const auto offset = V::less_one(V::width_of(z));
            const auto v = V::or_(bits, V::sll(V::low(z, offset), size)), l = V::add(size, offset);
            const auto full = V::above(V::add(left[q], l), c64);
            const auto keep = V::sub(left[q], c32);
            p = V::push(p, full, V::or_(V::srl(lo[q], keep), V::sll(hi[q], V::sub(c64, left[q]))));
            const auto l0 = V::pick(full, V::low(lo[q], keep), lo[q]), h0 = V::pick(full, zero, hi[q]);
            hi[q] = V::or_(V::sll(h0, l), V::srl(l0, V::sub(c32, l)));
            lo[q] = V::or_(V::sll(l0, l), v);
            left[q] = V::add(V::pick(full, keep, left[q]), l);
        }
    }
    word = p;
    for (int q = 0; q < Q; ++q) {
        V::store(lanes.lo + q * V::width, lo[q]);
        V::store(lanes.hi + q * V::width, hi[q]);
        V::store(lanes.left + q * V::width, left[q]);
    }
}

inline void run(Decoder& d, const u8* cond, u32* value, std::size_t n) {
    constexpr int Q = 32 / V::width;
    std::size_t i = 0;
    if (d.count == 32) {
        const typename V::Symbols symbols(d);
        typename V::R lo[Q], hi[Q], left[Q];
        for (int q = 0; q < Q; ++q) {
            lo[q] = V::load(d.lanes.lo + q * V::width);
            hi[q] = V::load(d.lanes.hi + q * V::width);
            left[q] = V::load(d.lanes.left + q * V::width);
        }
        const auto c32 = V::set(32), zero = V::set(0), one = V::set(1), shift = V::set(d.base - 2);
        auto wrong = V::none();
        const u8* p = d.word;
        // A vector of words is read where its mask has one: inside the block while 32 words are left, else value by value.
        for (; i + 32 <= n && d.end - p >= 128; i += 32) {
#pragma GCC unroll 4
            for (int q = 0; q < Q; ++q) {
                typename V::R s, size;
                symbols.find(lo[q], s, size);
                const auto odds = V::equal(s, V::set(rare)), plain = V::neither(odds, V::equal(s, zero));
                auto offset = V::add(s, shift);
                if (cond) offset = V::sub(offset, V::load8(cond + i + q * V::width));
                offset = V::pick(plain, offset, zero);
                wrong = V::either(wrong, V::above(offset, V::set(widest - 1)));
                const auto rest = V::join(lo[q], hi[q], size), top = V::srl(hi[q], size);
                auto z = V::or_(V::low(rest, offset), V::pick(plain, V::sll(one, offset), zero));
                const auto l = V::join(rest, top, offset), h = V::srl(top, offset);
                const auto a = V::sub(left[q], V::add(size, offset));
                if (__builtin_expect(V::any(odds), 0)) z = V::pull(d.odd, d.odd_end, odds, z, d.bad);
                V::store(value + i + q * V::width, z);
                const auto need = V::neither(V::above(a, c32), V::none());
                const auto w = V::expand(p, need);
                p += 4 * V::number(need);
                lo[q] = V::or_(l, V::sll(w, a));
                hi[q] = V::or_(h, V::srl(w, V::sub(c32, a)));
                left[q] = V::pick(need, V::add(a, c32), a);
            }
            if (__builtin_expect(d.bad, 0)) return;
        }
        d.word = p;
        d.bad |= V::any(wrong);
        for (int q = 0; q < Q; ++q) {
            V::store(d.lanes.lo + q * V::width, lo[q]);
            V::store(d.lanes.hi + q * V::width, hi[q]);
            V::store(d.lanes.left + q * V::width, left[q]);
        }
        if (d.bad) return;
    }
    one_run(d, cond, value, i, n);
}
