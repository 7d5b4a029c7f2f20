#include "learn/dense.h"
#include "learn/merge.h"
#include "learn/split.h"
#include "learn/wide.h"

namespace engine::learn {

template <template <Learner> class F, class... A>
static auto choose(Learner l, A&&... a) {
    switch (l) {
        case Learner::sgd: return F<Learner::sgd>::run(a...);
        case Learner::adagrad: return F<Learner::adagrad>::run(a...);
        case Learner::ftrl: return F<Learner::ftrl>::run(a...);
        case Learner::nag: return F<Learner::nag>::run(a...);
        case Learner::pa1: return F<Learner::pa1>::run(a...);
        default: return F<Learner::pa2>::run(a...);
    }
}

template <Learner L>
struct Predict {
    static void run(const Rule& r, const Table& t, const Rows& rows, const Scratch& s, float* out) {
        base::packs(t, rows, 0) ? base::predict_dense<L>(r, t, rows, s, out) : base::predict<L>(r, t, rows, s, out);
    }
};
template <Learner L>
struct Learn {
    static std::size_t run(const Rule& r, const Table& t, const Rows& rows, const Scratch& s, Track* track, std::size_t i,
                           float* out, std::uint64_t* bad) {
        if (base::packs(t, rows, i))
            return track ? base::learn_dense<L, true>(r, t, rows, s, track, i, out, bad)
                         : base::learn_dense<L, false>(r, t, rows, s, nullptr, i, out, bad);
        return track ? base::learn<L, true>(r, t, rows, s, track, i, out, bad)
                     : base::learn<L, false>(r, t, rows, s, nullptr, i, out, bad);
    }
};
template <Learner L>
struct Split {
    static int run(const Rule& r, const Table& t, const Rows& rows, const Scratch& s, const Desk& desk, float* out,
                   std::uint64_t* bad) {
        return base::split<L>(r, t, rows, s, desk, out, bad);
    }
};
template <Learner L>
struct Halve {
    static void run(const Rule& r, const Table& t, const Rows& rows, const Scratch& s, std::size_t start, std::size_t end,
                    float* sums) {
        base::halve<L>(r, t, rows, s, start, end, sums);
    }
};
template <Learner L>
struct Whole {
    static std::size_t run(const Rule& r, const Table& t, const Rows& rows, const Scratch& s, Track* track, std::size_t at,
                           std::size_t start, std::size_t end, const float* sums, std::uint64_t* bad) {
        return base::whole<L>(r, t, rows, s, track, at, start, end, sums, bad);
    }
};
template <Learner L>
struct Step {
    static bool run(const Rule& r, const Table& t, Track* track, const std::uint32_t* ids, const float* g, std::size_t m) {
        return base::step<L>(r, t, track, ids, g, m);
    }
};

static void predict(const Rule& r, const Table& t, const Rows& rows, const Scratch& s, float* out) {
    choose<Predict>(r.learner, r, t, rows, s, out);
}

static std::size_t learn(const Rule& r, const Table& t, const Rows& rows, const Scratch& s, Track* track, std::size_t start,
                         float* out, std::uint64_t* bad) {
    return choose<Learn>(r.learner, r, t, rows, s, track, start, out, bad);
}

static int split(const Rule& r, const Table& t, const Rows& rows, const Scratch& s, const Desk& desk, float* scores,
                 std::uint64_t* bad) {
    return choose<Split>(r.learner, r, t, rows, s, desk, scores, bad);
}

static void halve(const Rule& r, const Table& t, const Rows& rows, const Scratch& s, std::size_t start, std::size_t end,
                  float* sums) {
    choose<Halve>(r.learner, r, t, rows, s, start, end, sums);
}

static std::size_t whole(const Rule& r, const Table& t, const Rows& rows, const Scratch& s, Track* track, std::size_t at,
                         std::size_t start, std::size_t end, const float* sums, std::uint64_t* bad) {
    return choose<Whole>(r.learner, r, t, rows, s, track, at, start, end, sums, bad);
}

static bool step(const Rule& r, const Table& t, Track* track, const std::uint32_t* ids, const float* g, std::size_t m) {
    return choose<Step>(r.learner, r, t, track, ids, g, m);
}

static void slope(const Rule& r, const float* scores, const float* y, std::size_t m, float* out) {
    for (std::size_t i = 0; i < m; ++i) out[i] = slope_of(r, scores[i], y[i]);
}

static void sigmoid(const float* scores, std::size_t m, float* out) {
    for (std::size_t i = 0; i < m; ++i) out[i] = sigmoid_lane(scores[i]);
}

template <auto Select>
static const Ops& with() {
    static const Ops made{predict, learn, Select, split, halve, whole, step, slope, sigmoid, base::extract, base::restore, base::apply, base::own, base::combine};
    return made;
}

const Ops& ops(Isa level) {
#if defined(__x86_64__)
    if (level == Isa::avx512) return with<avx512::select>();
    if (level == Isa::avx2) return with<avx2::select>();
#endif
    (void)level;
    return with<select>();
}

}  // namespace engine::learn
