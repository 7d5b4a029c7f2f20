#include "factor/base.h"

namespace engine::factor {

static void predict(const Rule& rule, const Table& t, const Rows& rows, float* scores) {
    float sums[base::factors_max];
    for (std::size_t i = 0; i < rows.count; ++i) {
        base::fetch(t, rows, i + 2);
        scores[i] = base::score_of(rule, t, base::row(rows, i), sums);
    }
}

static std::size_t learn(const Rule& rule, const Table& t, const Rows& rows, Track& track, std::size_t i, float* scores,
                         std::uint64_t* bad) {
    float sums[base::factors_max];
    for (; i < rows.count; ++i) {
        base::fetch(t, rows, i + 2);
        const base::Row r = base::row(rows, i);
        if (track.ids && track.count + r.count + 1 > track.capacity) return i;
        const float score = scores[i] = base::score_of(rule, t, r, sums);
        const float y = rows.y[i], weight = rows.weight ? rows.weight[i] : 1.f;
        const bool fine = std::isfinite(score) && !std::isinf(y) && std::isfinite(weight);
        *bad += !fine;
        if (!fine || std::isnan(y) || weight == 0) continue;
        const float g = base::slope(rule, score, y) * weight;
        base::touch(t, track, t.keys);
        base::step_weight(rule, base::at(t, t.keys), g, 1.f);
        for (std::size_t j = 0; j < r.count; ++j) base::touch(t, track, r.keys[j]);
        if (rule.fields) base::step_aware(rule, t, r, g);
        for (std::size_t j = 0; j < r.count; ++j) {
            float* p = base::at(t, r.keys[j]);
            base::step_weight(rule, p, g, r.x(j));
            if (!rule.fields) base::step_plain(rule, p, g, r.x(j), sums);
        }
    }
    return i;
}

const Ops& ops(Isa) {
    static const Ops portable{predict, learn};
    return portable;
}

}  // namespace engine::factor
