#include "forest/base.h"

namespace engine::forest {

using namespace base;

static std::size_t vote(const Tree& t, const Rule& r, const float* x, double gain, double* votes, std::size_t* major, std::size_t* bayes) {
    double p[classes_max];
    const std::size_t leaf = leaf_of(t, x);
    shares(t, r, leaf, x, p, major, bayes);
    for (std::size_t c = 0; c < t.classes; ++c) votes[c] += gain * p[c];
    return leaf;
}

static void predict(const Tree& t, const Rule& r, const Rows& rows, double gain, double* votes) {
    std::size_t major, bayes;
    for (std::size_t i = 0; i < rows.count; ++i)
        vote(t, r, rows.x + i * t.columns, gain, votes + i * t.classes, &major, &bayes);
}

static void learn(const Tree& t, const Rule& r, const Rows& rows, double gain, double* votes, std::uint8_t* hits, bool may_split) {
    for (std::size_t i = 0; i < rows.count; ++i) {
        const float* x = rows.x + i * t.columns;
        std::size_t major, bayes;
        const std::size_t leaf = vote(t, r, x, gain, votes + i * t.classes, &major, &bayes);
        hits[i] = 0;
        if (std::isnan(rows.y[i])) continue;
        const auto label = static_cast<std::size_t>(rows.y[i]);
        double* s = sums(t, leaf, 0);
        hits[i] = (r.bayes && s[1] >= s[0] ? bayes : major) == label;
        double weight = rows.weight ? rows.weight[i] : 1.0;
        if (r.poisson > 0) weight *= poisson(r.poisson, r.seed, rows.order[i]);
        if (!(weight > 0)) continue;
        t.touched[leaf] = 1;
        s[0] += weight * (major == label), s[1] += weight * (bayes == label), s[2] += weight;
        s[head + label] += weight;
        double* m = s + head + t.classes + 2 * label;
        for (std::size_t j = 0; j < t.columns; ++j, m += 2 * t.classes) {
            const double v = x[j];
            m[0] += weight * v, m[1] += weight * v * v;
        }
        if (may_split && s[2] - t.last[leaf] >= r.grace) split(t, r, leaf);
    }
}

static std::size_t attempt(const Tree& t, const Rule& r) {
    std::size_t made = 0;
    const auto count = static_cast<std::size_t>(*t.count);
    for (std::size_t leaf = 0; leaf < count; ++leaf)
        if (t.feature[leaf] < 0 && sums(t, leaf)[2] - t.last[leaf] >= r.grace) made += split(t, r, leaf);
    return made;
}

const Ops& ops(Isa) {
    static const Ops portable{predict, learn, attempt};
    return portable;
}

}  // namespace engine::forest
