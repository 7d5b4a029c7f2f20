// What a learner does to four rows of the block with the gradients of one example.
#pragma once
#include "learn/lane.h"
#include "learn/ops.h"

namespace engine::learn {

struct Pace {  // what the learners need of the rule, once a row
    F4 rate, beta, l1, l2;
};

// Soft threshold after a step: the proximal map of l1 (Duchi and Singer, JMLR 2009).
INLINE F4 shrink(F4 w, F4 by) {
    const F4 m = magnitude(w) - by;
    return m > 0 ? sign_of(m, w) : set(0);
}

// rows: w, a, n of four keys; g: gradient of each; x: its value (read by NAG alone).
template <Learner L>
INLINE void advance(const Pace& c, F4& w, F4& a, F4& n, F4 g, F4 x) {
    if constexpr (L == Learner::ftrl) {  // McMahan et al., KDD 2013, algorithm 1; rate holds 1 / alpha
        const F4 next = n + g * g, s = root(next);
        a = a + (g - (s - root(n)) * c.rate * w);
        n = next;
        const F4 m = magnitude(a) - c.l1, v = m / ((c.beta + s) * c.rate + c.l2);
        w = m > 0 ? sign_of(v, -a) : set(0);
    } else if constexpr (L == Learner::adagrad) {  // Duchi, Hazan and Singer, JMLR 2011, diagonal
        g = g + c.l2 * w;
        n = n + g * g;
        const F4 rate = n > 0 ? c.rate / root(n) : set(0);
        w = shrink(w - rate * g, rate * c.l1);
    } else if constexpr (L == Learner::nag) {  // Ross, Mineiro and Langford, UAI 2013, algorithm 2 with adaptive rates
        const F4 m = magnitude(x), scale = m > a ? m : a;
        w = m > a ? w * (a / m) : w;
        a = scale;
        g = m > 0 ? g + c.l2 * w : set(0);
        n = n + g * g;
        const F4 d = a * root(n), rate = d > 0 ? c.rate / d : set(0);
        w = shrink(w - rate * g, m > 0 ? rate * c.l1 : set(0));
    } else if constexpr (L == Learner::sgd) {
        w = shrink(w - c.rate * (g + c.l2 * w), c.rate * c.l1);
    } else {  // PA: g already is the closed-form step (Crammer et al., JMLR 2006)
        w = w - g;
    }
}

INLINE float slope_of(const Rule& r, float m, float y) {
    switch (r.loss) {
        case Loss::squared: return m - y;
        case Loss::logistic: return sigmoid_lane(m) - (y > 0 ? 1.f : 0.f);
        case Loss::hinge: return y > 0 ? (m < 1 ? -1.f : 0.f) : (m > -1 ? 1.f : 0.f);
        case Loss::quantile: return y > m ? -r.tau : y < m ? 1 - r.tau : 0.f;
        case Loss::poisson: return exp_lane(m) - y;
        case Loss::epsilon: return m > y + r.epsilon ? 1.f : m < y - r.epsilon ? -1.f : 0.f;
    }
    return 0;
}

// Coefficient of x in the step: slope, or for PA sign * tau with `square` = |x|^2 (bias included).
template <Learner L>
INLINE float coefficient(const Rule& r, float m, float y, float square) {
    const float s = slope_of(r, m, y);
    if constexpr (L == Learner::pa1 || L == Learner::pa2) {
        const float loss = r.loss == Loss::hinge ? 1 - (y > 0 ? m : -m) : std::fabs(y - m) - r.epsilon;
        if (s == 0 || square == 0) return 0;
        if constexpr (L == Learner::pa2) return s * (loss / (square + .5f / r.rate));
        const float t = loss / square;
        return s * (t < r.rate ? t : r.rate);
    }
    return s;
}

}  // namespace engine::learn
