// Runs every family of kernels on made-up input and prints a hash of what each leaves, a line a kernel: two builds for two
// machines must print the same. `probe ISA`, default: the best this CPU runs.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "check/ops.h"
#include "clean/ops.h"
#include "delta/ops.h"
#include "entropy/ops.h"
#include "factor/ops.h"
#include "forest/ops.h"
#include "learn/ops.h"
#include "parity/ops.h"
#include "parse/ops.h"
#include "quant/ops.h"
#include "route/ops.h"
#include "score/ops.h"
#include "sparse/ops.h"
#include "stats/ops.h"

using namespace engine;
using std::vector;
using u8 = std::uint8_t;
using u32 = std::uint32_t;
using u64 = std::uint64_t;
using i64 = std::int64_t;

static u64 seed = 1;
static u64 draw() {  // splitmix64
    u64 z = seed += 0x9E3779B97F4A7C15ull;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}
static float real() { return static_cast<float>(static_cast<double>(draw() >> 11) / 4503599627370496.0 - 1.0); }
static vector<float> reals(std::size_t n) {
    vector<float> out(n);
    for (float& x : out) x = real() * real() * real();
    return out;
}
template <class T>
static void put(u64& hash, const T* data, std::size_t n) {
    const u8* bytes = reinterpret_cast<const u8*>(data);
    for (std::size_t i = 0; i < n * sizeof(T); ++i) hash = (hash ^ bytes[i]) * 0x100000001B3ull;
}
static u64 hash_of() { return 0xCBF29CE484222325ull; }
template <class T, class... More>
static u64 hash_of(const vector<T>& first, const More&... more) {
    u64 hash = hash_of(more...);
    put(hash, first.data(), first.size());
    return hash;
}
static void say(const std::string& name, u64 hash) { std::printf("%s %016llx\n", name.c_str(), static_cast<unsigned long long>(hash)); }

static void quantisers(Isa isa) {
    const auto& ops = quant::ops(isa);
    const std::size_t n = 64 * 151;
    vector<float> g = reals(n);
    g[7] = INFINITY, g[1001] = NAN, g[2000] = -0.0f, g[2001] = 1e-41f;
    for (int mode = 0; mode < quant::modes; ++mode)
        for (std::size_t block : {64u, 1024u, 4096u}) {
            vector<float> e = reals(n), scales(n / 64 * 2 + 2), acc = reals(n);
            vector<u8> out(n + 64);
            ops.encode[mode](g.data(), e.data(), n, block, out.data(), scales.data(), quant::Key{3, 5, 128});
            ops.decode[mode](out.data(), scales.data(), n, block, acc.data());
            say("quant." + std::to_string(mode) + "." + std::to_string(block), hash_of(e, scales, acc, out));
        }
    for (int kind = 0; kind < quant::narrows; ++kind) {
        vector<float> e = reals(n), acc = reals(n);
        vector<u8> out(2 * n);
        ops.cast[kind](g.data(), e.data(), n, out.data());
        ops.widen[kind](out.data(), n, acc.data());
        say("cast." + std::to_string(kind), hash_of(e, acc, out));
    }
    for (int kind = 0; kind < 3; ++kind) {
        vector<float> e = reals(n), acc = reals(n);
        vector<u8> out(4 * n);
        ops.shared[kind](g.data(), e.data(), n, 100.0f, 0.01f, 100.0f, out.data());
        ops.shared_add[kind](out.data(), n, 0.01f, acc.data());
        say("shared." + std::to_string(kind), hash_of(e, acc, out));
    }
    vector<float> peak{ops.peak(g.data(), reals(n).data(), n)};
    vector<u8> bytes(n);
    ops.quantise(reals(n).data(), n, 90.0f, 128.0f, bytes.data());
    say("quant.peak", hash_of(peak, bytes));
}

static void selection(Isa isa) {
    const std::size_t n = 70001;
    vector<float> g = reals(n), e = reals(n), value(n + 64), acc = reals(n);
    vector<u32> index(n + 64);
    const sparse::Scan scan = sparse::ops(isa).threshold(g.data(), e.data(), 0, n, 0.2f, index.data(), value.data(), index.size());
    vector<u64> counts{scan.next, scan.count, scan.bad};
    vector<float> kth{sparse::keep(index.data(), value.data(), scan.count, scan.count / 3, e.data())};
    index.resize(scan.count / 3), value.resize(scan.count / 3);
    sparse::scatter_add(index.data(), value.data(), index.size(), acc.data(), n);
    vector<u32> strata(500);
    sparse::strata(n, strata.size(), 99, strata.data());
    say("sparse", hash_of(counts, kth, index, value, e, acc, strata));
}

static void coders(Isa isa, entropy::Work& work) {
    const auto& ops = entropy::ops(isa);
    for (std::size_t n : {63u, 5000u, 70000u}) {
        vector<u32> value(n), back(n), index;
        vector<u8> cond(n), out(entropy::bound(n)), names;
        for (std::size_t i = 0; i < n; ++i) value[i] = static_cast<u32>(draw() >> (40 + draw() % 24)), cond[i] = draw() % 9;
        for (const u8* under : {static_cast<const u8*>(nullptr), static_cast<const u8*>(cond.data())}) {
            const std::size_t size = entropy::encode_all(ops, value.data(), under, n, out.data(), out.size(), work);
            const std::size_t used = entropy::decode_all(ops, out.data(), size, under, back.data(), n);
            if (used != size || back != value) std::printf("classes of %zu do not come back\n", n);
            say("classes." + std::to_string(n), hash_of(vector<u8>(out.begin(), out.begin() + size)));
        }
        const u64 universe = 10 * n;
        for (u64 at = 0; at < universe; at += 1 + draw() % 19) index.push_back(static_cast<u32>(at));
        vector<u8> set(entropy::index_bound(index.size(), universe));
        for (bool fast : {false, true}) {
            const std::size_t size = entropy::index_encode(ops, index.data(), index.size(), universe, fast, set.data(), set.size(), work);
            vector<u32> again(index.size() + 64);
            std::size_t used = 0;
            if (!entropy::index_decode(ops, set.data(), size, again.data(), index.size(), universe, used, work)) std::printf("index set\n");
            again.resize(index.size());
            if (again != index || used != size) std::printf("index set of %zu does not come back\n", index.size());
            say("index." + std::to_string(n), hash_of(vector<u8>(set.begin(), set.begin() + size)));
        }
        vector<u8> text(n), packed(2 * n + 1024), plain(n);
        for (u8& c : text) c = static_cast<u8>(__builtin_ctzll(draw() | 1ull << 40));
        std::size_t size = entropy::huffman_encode(text.data(), n, packed.data(), packed.size());
        if (size && (!entropy::huffman_decode(packed.data(), size, plain.data(), n) || plain != text)) std::printf("huffman\n");
        const u64 first = hash_of(vector<u8>(packed.begin(), packed.begin() + size));
        size = entropy::range_encode(text.data(), n, packed.data(), packed.size());
        if (size && (!entropy::range_decode(packed.data(), size, plain.data(), n) || plain != text)) std::printf("range\n");
        say("bytes." + std::to_string(n), hash_of(vector<u64>{first}, vector<u8>(packed.begin(), packed.begin() + size)));
    }
}

static void deltas(Isa isa, delta::Work& work) {
    const delta::Tools tools{delta::ops(isa), entropy::ops(isa), check::ops(isa)};
    const std::size_t n = 100000, chunk = 65536;
    for (u32 kind = 0; kind < 8; ++kind)
        for (int form = 0; form < 4; ++form) {  // coded, fast, sparse changes, bounded
            if (form == 3 && kind < 6) continue;
            const std::size_t width = delta::widths[kind];
            vector<u8> base(n * width), now, made(n * width), back(n * width);
            if (kind >= 6) {
                for (std::size_t i = 0; i < n; ++i) {
                    const float x = real();
                    const double twice = x * 1.25;
                    std::memcpy(&base[i * width], kind == 6 ? static_cast<const void*>(&x) : &twice, width);
                }
            } else {
                for (u8& b : base) b = static_cast<u8>(draw());
            }
            now = base;
            for (std::size_t i = 0; i < n; ++i)
                if (form != 2 || draw() % 100 == 0) now[i * width] ^= static_cast<u8>(draw() % 32);
            const delta::Job job{static_cast<delta::Kind>(kind), now.data(), base.data(), nullptr, 0.0f, form == 3 ? 1e-4 : 0.0, form == 1, 0, n, chunk};
            vector<u8> out(delta::bound(job));
            vector<delta::Row> rows((n + chunk - 1) / chunk);
            const std::size_t size = delta::encode(tools, job, out.data(), out.size(), rows.data(), made.data(), work);
            for (std::size_t r = 0; r < rows.size(); ++r) {
                const std::size_t at = r * chunk;
                const delta::Fault fault = delta::decode(tools, job, at, std::min(chunk, n - at), rows[r], out.data(), back.data() + at * width, work);
                if (fault != delta::fine) std::printf("delta of kind %u: fault %d\n", kind, fault);
            }
            if (back != made) std::printf("delta of kind %u, form %d does not come back\n", kind, form);
            say("delta." + std::to_string(kind) + "." + std::to_string(form), hash_of(vector<u8>(out.begin(), out.begin() + size), rows, made));
        }
}

static void guards(Isa isa) {
    const std::size_t n = 10007;
    vector<u8> data(n);
    for (u8& b : data) b = static_cast<u8>(draw());
    const auto& ops = check::ops(isa);
    say("check", hash_of(vector<u64>{ops.crc32c(data.data(), n, 0), ops.crc32c(data.data() + 3, n - 3, 7), ops.hash64(data.data(), n, 0), ops.hash64(data.data(), 80, 5)}));
    vector<vector<u8>> out(3, vector<u8>(2500));
    const u8 matrix[] = {1, 1, 1, 2, 142, 71, 29, 200, 0};
    const u8* from[] = {data.data(), data.data() + 2501, data.data() + 5002};
    u8* to[] = {out[0].data(), out[1].data(), out[2].data()};
    parity::ops(isa).dot(matrix, 3, 3, from, to, 2500, false);
    parity::ops(isa).dot(matrix, 3, 3, from + 0, to, 2500, true);
    say("parity", hash_of(out[0], out[1], out[2]));
}

static void texts(Isa isa) {
    std::string csv, svm;
    for (int row = 0; row < 500; ++row) {
        char line[200];
        const float a = real(), b = real();  // one by one: the order of arguments is the compiler's
        std::snprintf(line, sizeof line, "%d,%.9g,\"x%d,y\",%.3e,%d\r\n", row % 2, a, row % 7, b * 1e30, row);
        csv += row % 50 == 9 ? "1,oops,a,2,3\n" : line;
        std::snprintf(line, sizeof line, "%d %d:%.7g %d:%d %d:%.12g\n", row % 2, row % 9 + 1, a, row + 20, row, row + 900, b * 1e-6);
        svm += row % 60 == 9 ? "1 7:1 x:2\n" : line;
    }
    const auto& ops = parse::ops(isa);
    const u8 kinds[] = {parse::target, parse::numeric, parse::categorical, parse::numeric, parse::numeric};
    const u64 seeds[] = {1, 2, 3, 4, 5};
    for (bool dense : {false, true}) {
        vector<float> y(600), x(600 * 8), values(3000);
        vector<i64> at(600), indptr(601), bad(60), tally(8);
        vector<u32> keys(3000);
        const parse::Out out{y.data(), at.data(), dense ? x.data() : nullptr, dense ? nullptr : indptr.data(), keys.data(), values.data(), bad.data(), 20, tally.data()};
        u8 only[] = {parse::target, parse::numeric, parse::skip, parse::numeric, parse::numeric};
        const parse::Csv plan{',', false, dense ? only : kinds, seeds, 5, 3, (1u << 20) - 1, nullptr, nullptr, 0};
        parse::Result found = ops.csv(reinterpret_cast<const u8*>(csv.data()), csv.size(), plan, out);
        say(dense ? "csv.dense" : "csv.sparse", hash_of(y, x, values, at, indptr, bad, tally, keys, vector<i64>{found.rows, found.nnz, found.ones}));
        if (dense) continue;
        for (int mode = 0; mode < 3; ++mode) {
            found = ops.libsvm(reinterpret_cast<const u8*>(svm.data()), svm.size(), 1, mode, (1u << 18) - 1, out);
            say("libsvm." + std::to_string(mode), hash_of(y, values, at, indptr, bad, tally, keys, vector<i64>{found.rows, found.nnz, found.ones}));
        }
    }
}

static void routes(Isa isa) {
    const std::size_t n = 5000;
    vector<std::int16_t> owner((1 << 10) + 4);
    for (auto& o : owner) o = static_cast<std::int16_t>(draw() % 97);
    owner[17] = ~0;
    const route::Fork forks[] = {{1 << 10, 2}};
    vector<u64> keys(n);
    for (u64& key : keys) key = draw() >> (draw() % 60);
    vector<std::int32_t> out(n);
    route::ops(isa).route16(route::Map<std::int16_t>{owner.data(), forks, 10}, keys.data(), n, out.data());
    say("route", hash_of(out));
    vector<u64> name(1 << 14);
    vector<i64> since(1 << 14);
    vector<u8> fresh(n), again(n);
    const std::size_t used = route::seen(keys.data(), n, 3, 0, true, name.data(), since.data(), name.size(), 0, fresh.data());
    route::seen(keys.data(), n, 9, 5, true, name.data(), since.data(), name.size(), used, again.data());
    say("seen", hash_of(name, since, fresh, again));
}

static void linear(Isa isa) {
    const auto& ops = learn::ops(isa);
    const std::size_t rows = 2000, each = 11, width = 1 << 12;
    vector<i64> indptr(rows + 1);
    vector<u32> keys(rows * each);
    vector<float> values = reals(keys.size()), y(rows), x = reals(rows * 16);
    for (std::size_t i = 0; i <= rows; ++i) indptr[i] = static_cast<i64>(i * each);
    for (u32& key : keys) key = static_cast<u32>(draw() % (width - 1));
    for (int learner = 0; learner < 6; ++learner)
        for (int loss = 0; loss < 6; ++loss)
            for (bool dense : {false, true}) {
                for (std::size_t i = 0; i < rows; ++i) y[i] = loss == 1 || loss == 2 ? static_cast<float>(draw() & 1) : real() + 1;
                learn::Rule rule{static_cast<learn::Loss>(loss), static_cast<learn::Learner>(learner), 0.05f, 0.5f, 1.0f, 1e-4f, 1e-5f, 0.3f, 0.1f, 1.0f};
                const u32 count = dense ? 17 : width;
                vector<float> block(count * 4), scores(rows), side(4 * count);
                vector<double> clock(2), scale(3 * 16);
                vector<u32> ids(count), room(64);
                vector<float> other(64);
                vector<u64> bad(1);
                const learn::Table table{block.data(), 1, count, clock.data(), dense ? scale.data() : nullptr, false, !dense};
                learn::Rows in{rows, dense ? nullptr : indptr.data(), keys.data(), dense ? nullptr : values.data(), dense ? x.data() : nullptr, dense ? 16u : 0u, y.data(), nullptr};
                vector<u32> dense_keys(16);
                for (u32 k = 0; k < 16; ++k) dense_keys[k] = k;
                if (dense) in.keys = dense_keys.data();
                learn::Track track{ids.data(), side.data(), ids.size(), 0};
                ops.learn(rule, table, in, learn::Scratch{room.data(), other.data()}, &track, 0, scores.data(), bad.data());
                vector<float> after(rows), given(track.count * 6);
                vector<u32> order(track.count);
                for (u32 k = 0; k < order.size(); ++k) order[k] = k;
                ops.extract(rule, learn::Merge::owner, table, track, order.data(), given.data());
                ops.predict(rule, table, in, learn::Scratch{room.data(), other.data()}, after.data());
                say("learn." + std::to_string(learner) + "." + std::to_string(loss) + (dense ? ".dense" : ""), hash_of(block, scores, after, given, clock, scale, ids));
            }
    vector<float> scores = reals(1001), out(1001);
    for (float& s : scores) s *= 30;
    ops.sigmoid(scores.data(), 1001, out.data());
    say("sigmoid", hash_of(out));
}

static void others(Isa isa) {
    const std::size_t n = 3000, d = 5;
    vector<float> x = reals(n * d), y(n), out(n * d), previous = reals(n), weight;
    vector<i64> order(n), indptr(n + 1);
    vector<u32> keys(n * d);
    for (std::size_t i = 0; i < n; ++i) order[i] = static_cast<i64>(i), y[i] = static_cast<float>(draw() % 2), previous[i] = y[i];
    for (std::size_t i = 0; i <= n; ++i) indptr[i] = static_cast<i64>(i * d);
    for (u32& key : keys) key = static_cast<u32>(draw() % 500);
    for (std::size_t i = 3; i < x.size(); i += 101) x[i] = NAN;
    vector<double> stats(3 * d), means(2 * d), edges(2 * d);
    for (std::size_t j = 0; j < d; ++j) edges[j] = INFINITY, edges[d + j] = -INFINITY;
    vector<float> standard(n * d), filled(n * d), flags(n * d), least(n * d);
    const vector<float> zeros(d);
    const auto& clean = clean::ops(isa);
    clean.standard({n, d}, x.data(), stats.data(), true, standard.data());
    clean.impute({n, d}, x.data(), means.data(), clean::Fill::mean, zeros.data(), true, filled.data(), flags.data());
    clean.minmax({n, d}, filled.data(), edges.data(), true, least.data());
    vector<float> projected(n * 4);
    clean::project(n, indptr.data(), keys.data(), filled.data(), 4, 11, projected.data());
    for (float& v : standard) if (std::isnan(v)) v = -9;  // which NaN it is, is not promised
    say("clean", hash_of(standard, filled, flags, least, stats, means, edges, projected));

    vector<i64> table(40 * 7), confusion(4), hist(2 * score::bins);
    score::ops(isa).binary({previous.data(), y.data(), previous.data(), order.data(), static_cast<i64>(n)}, {table.data(), 40, 7, 100}, confusion.data(), hist.data());
    say("score", hash_of(table, confusion, hist));

    const factor::Rule rule{true, 0.1f, 0.1f, 1.0f, 1e-5f, 1e-5f, 8, 0};
    vector<float> block(501 * 12), scores(n), side(501 * 12);
    for (std::size_t k = 0; k < 501; ++k) for (int f = 4; f < 12; ++f) block[k * 12 + f] = real() * 0.1f;
    vector<u32> ids(501);
    vector<u64> bad(1);
    factor::Track track{ids.data(), side.data(), 501, 0};
    factor::ops(isa).learn(rule, {block.data(), 500, 12}, {n, indptr.data(), keys.data(), filled.data(), y.data(), nullptr}, track, 0, scores.data(), bad.data());
    say("factor", hash_of(block, scores, side, ids));

    vector<double> bayes(2 * d * 3), joint(2 * n);
    stats::ops(isa).bayes(bayes.data(), 2, 1e-9, {n, d, filled.data(), y.data()}, joint.data(), true);
    say("bayes.data", hash_of(bayes));
}

int main(int count, char** names) {
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    Isa isa = engine::isa();
    for (Isa level : {Isa::base, Isa::avx2, Isa::avx512, Isa::neon})
        if (count > 1 && !std::strcmp(names[1], isa_name(level))) isa = level;
    static entropy::Work work;
    static delta::Work more;
    quantisers(isa), selection(isa), coders(isa, work), deltas(isa, more), guards(isa), texts(isa), routes(isa), linear(isa), others(isa);
}
