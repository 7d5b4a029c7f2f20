#include <pybind11/stl.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "bind/array.h"
#include "bind/names.h"
#include "learn/split.h"

namespace {

using namespace engine::learn;
template <class T>
using Maybe = std::optional<Arr<T>>;
constexpr const char* losses[] = {"squared", "logistic", "hinge", "quantile", "poisson", "epsilon"};

// A learner bound to its arrays, so that a call from Python carries the rows alone. Not for two threads at once.
class Native {
public:
    Native(Arr<float> block, Arr<double> clock, const Maybe<double>& scale, int classes, const std::string& loss,
           const std::string& learner, const std::vector<float>& numbers, bool pairs, bool tracked, const std::string& merge)
        : block_(std::move(block)), clock_(std::move(clock)), scale_(scale), tracked_(tracked),
          merge_(named<Merge>(merge, merge_names, "merge")) {
        need(numbers.size() == 8, "Native: expected 8 numbers");
        rule_ = {named<Loss>(loss, losses, "loss"), named<Learner>(learner, learner_names, "learner"),
                 numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6], numbers[7]};
        need(block_.ndim() == 2 && block_.shape(1) == 4, "Native: expected a block of shape (rows, 4)");
        need(classes >= 1 && block_.shape(0) % classes == 0, "Native: rows of the block must be keys * classes");
        need(block_.shape(0) < (1ll << 32), "Native: more than 2^32 rows");
        need(clock_.size() == 2, "Native: expected a clock of 2");
        table_ = {writable(block_), static_cast<std::uint32_t>(classes),
                  static_cast<std::uint32_t>(block_.shape(0) / classes), writable(clock_), nullptr, pairs,
                  block_.shape(0) > (1 << 16)};
        space_ = table_.keys - (rule_.bias != 0);
        need(table_.keys > (rule_.bias != 0), "Native: no keys");
        if (scale_) {
            need(scale_->ndim() == 2 && scale_->shape(1) == 3, "Native: expected a scale of shape (columns, 3)");
            table_.scale = writable(*scale_);
        }
    }

    void predict(Arr<float> out, const Maybe<std::int64_t>& indptr, const Maybe<std::uint32_t>& keys,
                 const Maybe<float>& values, const Maybe<float>& x) {
        need(out.ndim() >= 1, "predict: expected scores of shape (rows, ...)");
        const auto count = static_cast<std::size_t>(out.shape(0));
        need(static_cast<std::size_t>(out.size()) == count * table_.classes, "predict: scores must be rows * classes");
        const Rows rows = bind(count, indptr, keys, values, x);
        float* scores = writable(out);
        py::gil_scoped_release release;
        const Scratch scratch = room(rows);
        ops_.predict(rule_, table_, rows, scratch, scores);
    }

    std::uint64_t learn(Arr<float> out, const Arr<float>& y, const Maybe<float>& weight, const Maybe<std::int64_t>& indptr,
                        const Maybe<std::uint32_t>& keys, const Maybe<float>& values, const Maybe<float>& x) {
        const auto count = static_cast<std::size_t>(y.size());
        need(static_cast<std::size_t>(out.size()) == count * table_.classes, "learn: scores must be rows * classes");
        need(!weight || static_cast<std::size_t>(weight->size()) == count, "learn: one weight a row");
        Rows rows = bind(count, indptr, keys, values, x);
        rows.y = y.data(), rows.weight = weight ? weight->data() : nullptr;
        float* scores = writable(out);
        py::gil_scoped_release release;
        return run(rows, scores);
    }

    void sit(Arr<std::uint8_t> desk, std::uint32_t member, std::uint32_t members, std::size_t lot, double limit_s) {
        need(members >= 1 && member < members && lot >= 1, "sit: expected member < members and lot >= 1");
        need(!scale_ && !table_.pairs && !tracked_, "sit: no scaler, no interactions, no tracking in a crew");
        desk_memory_ = std::move(desk);
        desk_ = {writable(desk_memory_), member, members, lot, lot_floats(lot, table_.classes), limit_s};
        need(static_cast<std::size_t>(desk_memory_.size()) >= Desk::bytes(members, desk_.floats), "sit: the desk is too small");
        need(reinterpret_cast<std::uintptr_t>(desk_.memory) % Desk::line == 0, "sit: the desk must be aligned to 64 bytes");
    }

    static std::size_t lot_floats(std::size_t lot, std::size_t classes) { return (2 * lot * classes + 15) / 16 * 16; }

    // (rows with non-finite numbers, member that did not come or -1). `whole`: rows hold the keys of all members.
    std::pair<std::uint64_t, int> split(Arr<float> out, const Arr<float>& y, const Maybe<float>& weight,
                                        const Arr<std::int64_t>& indptr, const Arr<std::uint32_t>& keys,
                                        const Maybe<float>& values, bool whole) {
        need(desk_.memory != nullptr, "split: sit at a desk first");
        const auto count = static_cast<std::size_t>(y.size());
        need(static_cast<std::size_t>(out.size()) == count * table_.classes, "split: scores must be rows * classes");
        need(!weight || static_cast<std::size_t>(weight->size()) == count, "split: one weight a row");
        Rows rows = bind(count, indptr, keys, values, std::nullopt);
        rows.y = y.data(), rows.weight = weight ? weight->data() : nullptr;
        float* scores = writable(out);
        const auto nnz = static_cast<std::size_t>(keys.size());
        py::gil_scoped_release release;
        if (whole) {
            if (own_indptr_.size() < count + 1) own_indptr_.resize(count + 1);
            if (own_keys_.size() < nnz + ROOM) own_keys_.resize(nnz + ROOM);
            if (values && own_values_.size() < nnz + ROOM) own_values_.resize(nnz + ROOM);
            ops_.select(rows, desk_.member, desk_.member + 1, desk_.members, own_indptr_.data(), own_keys_.data(),
                        values ? own_values_.data() : nullptr);
            rows.indptr = own_indptr_.data(), rows.keys = own_keys_.data();
            if (values) rows.values = own_values_.data();
        }
        std::uint64_t bad = 0;
        const int absent = ops_.split(rule_, table_, rows, Scratch{nullptr, nullptr}, desk_, scores, &bad);
        return {bad, absent};
    }

    // Rows that `halve` and `whole` work on, held until the next ones.
    void begin(const Arr<float>& y, const Maybe<float>& weight, const Maybe<std::int64_t>& indptr,
               const Maybe<std::uint32_t>& keys, const Maybe<float>& values, const Maybe<float>& x) {
        const auto count = static_cast<std::size_t>(y.size());
        need(!weight || static_cast<std::size_t>(weight->size()) == count, "begin: one weight a row");
        Rows rows = bind(count, indptr, keys, values, x);
        rows.y = y.data(), rows.weight = weight ? weight->data() : nullptr;
        held_ = py::make_tuple(y, weight, indptr, keys, values, x);
        begun_ = rows;
    }

    void halve(std::size_t start, std::size_t end, Arr<float> sums) {
        need(start <= end && end <= begun_.count, "halve: expected rows that were begun");
        need(static_cast<std::size_t>(sums.size()) == planes() * (end - start) * table_.classes, "halve: sums of another size");
        ops_.halve(rule_, table_, begun_, room(begun_), start, end, writable(sums));
    }

    std::uint64_t whole(std::size_t start, std::size_t end, const Arr<float>& sums) {
        need(start <= end && end <= begun_.count, "whole: expected rows that were begun");
        need(static_cast<std::size_t>(sums.size()) == planes() * (end - start) * table_.classes, "whole: sums of another size");
        std::uint64_t bad = 0;
        for (std::size_t at = start;;) {
            at = ops_.whole(rule_, table_, begun_, room(begun_), tracked_ ? &track_ : nullptr, at, start, end, sums.data(), &bad);
            if (at == end) return bad;
            grow(track_.count + (longest(begun_) + 1) * table_.classes);
        }
    }

    std::size_t planes() const { return squared(rule_.learner) ? 2 : 1; }

    void leave() {
        if (desk_.memory) desk_.gone(desk_.member).store(1);
    }

    float learn_one(const Arr<float>& x, float y) {
        need(x.ndim() == 1 && static_cast<std::size_t>(x.size()) == (scale_ ? width() : x.size()) &&
                 static_cast<std::size_t>(x.size()) <= space_, "learn_one: wrong number of columns");
        need(table_.classes == 1, "learn_one: one score only; use learn for classes");
        Rows rows = dense(1, x.data(), static_cast<std::size_t>(x.size()));
        rows.y = &y;
        float score;
        run(rows, &score);
        return score;
    }

    void step(const Arr<std::uint32_t>& ids, const Arr<float>& g) {
        need(ids.size() == g.size(), "step: one gradient a row");
        check(ids, static_cast<std::size_t>(block_.shape(0)), "step");
        if (tracked_) grow(track_.count + static_cast<std::size_t>(ids.size()));
        ops_.step(rule_, table_, tracked_ ? &track_ : nullptr, ids.data(), g.data(), static_cast<std::size_t>(ids.size()));
    }

    void slope(const Arr<float>& scores, const Arr<float>& y, Arr<float> out) {
        need(scores.size() == y.size() && y.size() == out.size(), "slope: sizes differ");
        ops_.slope(rule_, scores.data(), y.data(), static_cast<std::size_t>(y.size()), writable(out));
    }

    void pace(float rate) {  // the step size from here on
        need(rate > 0, "pace: expected a rate > 0");
        rule_.rate = rate;
    }

    std::size_t touched() const { return track_.count; }

    py::tuple update() {
        const auto n = track_.count;
        Arr<std::uint32_t> keys(static_cast<py::ssize_t>(n));
        Arr<float> values({static_cast<py::ssize_t>(n), static_cast<py::ssize_t>(6)});
        std::uint32_t* k = writable(keys);
        float* v = writable(values);
        py::gil_scoped_release release;
        const auto order = ascending();
        for (std::size_t i = 0; i < n; ++i) k[i] = ids_[order[i]];
        ops_.extract(rule_, merge_, table_, track_, order.data(), v);
        py::gil_scoped_acquire acquire;
        return py::make_tuple(keys, values);
    }

    void merge(const Arr<std::uint32_t>& keys, const Arr<float>& values, int ranks) {
        need(ranks >= 1, "merge: expected ranks >= 1");
        need(values.ndim() == 2 && values.shape(1) == 6 && values.shape(0) == keys.size(), "merge: expected values (keys, 6)");
        check(keys, static_cast<std::size_t>(block_.shape(0)), "merge");
        const auto m = static_cast<std::size_t>(keys.size());
        py::gil_scoped_release release;
        ops_.restore(table_, track_);
        track_.count = 0;
        ops_.apply(rule_, merge_, table_, keys.data(), values.data(), m, ranks);
    }

    void rebase() {  // what was learned becomes the base
        for (std::size_t i = 0; i < track_.count; ++i) table_.block[4 * std::size_t(ids_[i]) + 3] = 0;
        track_.count = 0;
    }

private:
    std::size_t width() const { return static_cast<std::size_t>(scale_->shape(0)); }

    static void check(const Arr<std::uint32_t>& keys, std::size_t space, const char* who) {
        std::uint32_t all = 0, top = 0;
        const std::uint32_t* k = keys.data();
        const auto n = static_cast<std::size_t>(keys.size());
        for (std::size_t i = 0; i < n; ++i) all |= k[i];
        if (all < space) return;
        for (std::size_t i = 0; i < n; ++i) top = std::max(top, k[i]);
        if (top >= space)
            throw py::index_error(std::string(who) + ": key " + std::to_string(top) + " outside the key space of " + std::to_string(space));
    }

    Rows dense(std::size_t count, const float* x, std::size_t columns) {
        while (iota_.size() < columns) iota_.push_back(static_cast<std::uint32_t>(iota_.size()));
        return {count, nullptr, iota_.data(), nullptr, x, columns, nullptr, nullptr};
    }

    Rows bind(std::size_t count, const Maybe<std::int64_t>& indptr, const Maybe<std::uint32_t>& keys,
              const Maybe<float>& values, const Maybe<float>& x) {
        if (x) {
            need(x->ndim() == 2 && static_cast<std::size_t>(x->shape(0)) == count, "learn: x must have one row for each score");
            const auto columns = static_cast<std::size_t>(x->shape(1));
            need(columns <= space_ && (!scale_ || columns == width()), "learn: wrong number of columns");
            return dense(count, x->data(), columns);
        }
        need(indptr && keys, "learn: expected x, or indptr and keys");
        need(!scale_, "learn: a scaler needs dense rows");
        need(static_cast<std::size_t>(indptr->size()) == count + 1, "learn: indptr must have rows + 1 places");
        const std::int64_t* p = indptr->data();
        need(p[0] == 0 && p[count] <= keys->size(), "learn: indptr must start at 0 and end within keys");
        for (std::size_t i = 0; i < count; ++i) need(p[i] <= p[i + 1], "learn: indptr must not fall");
        need(!values || values->size() == keys->size(), "learn: one value a key");
        check(*keys, space_, "learn");
        return {count, p, keys->data(), values ? values->data() : nullptr, nullptr, 0, nullptr, nullptr};
    }

    std::size_t longest(const Rows& rows) const {
        std::size_t top = rows.width;
        if (rows.indptr)
            for (std::size_t i = 0; i < rows.count; ++i)
                top = std::max(top, static_cast<std::size_t>(rows.indptr[i + 1] - rows.indptr[i]));
        return table_.pairs ? top + top * (top + 1) / 2 : top;
    }

    Scratch room(const Rows& rows) {
        if (table_.pairs || table_.scale) {
            const std::size_t top = longest(rows);
            if (keys_.size() < top) keys_.resize(top), values_.resize(top);
        }
        return {keys_.data(), values_.data()};
    }

    std::uint64_t run(const Rows& rows, float* scores) {
        const Scratch scratch = room(rows);
        std::uint64_t bad = 0;
        for (std::size_t i = 0;;) {
            i = ops_.learn(rule_, table_, rows, scratch, tracked_ ? &track_ : nullptr, i, scores, &bad);
            if (i == rows.count) return bad;
            grow(track_.count + (longest(rows) + 1) * table_.classes);
        }
    }

    void grow(std::size_t least) {
        if (least <= track_.capacity) return;
        const std::size_t capacity = std::max<std::size_t>(2 * least, 1024);
        std::unique_ptr<std::uint32_t[]> ids(new std::uint32_t[capacity]);
        std::unique_ptr<float[]> side(new float[4 * capacity]);
        std::copy_n(ids_.get(), track_.count, ids.get());
        std::copy_n(side_.get(), 4 * track_.count, side.get());
        ids_ = std::move(ids), side_ = std::move(side);
        track_.ids = ids_.get(), track_.side = side_.get(), track_.capacity = capacity;
    }

    // Places of the touched rows in ascending order of id: radix sort, 11 bits a pass.
    std::vector<std::uint32_t> ascending() const {
        std::vector<std::uint32_t> from(track_.count), to(track_.count);
        for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<std::uint32_t>(i);
        for (int shift = 0; shift < 32 && (block_.shape(0) - 1) >> shift; shift += 11) {
            std::size_t start[2049] = {0};
            for (std::size_t i = 0; i < from.size(); ++i) ++start[1 + (ids_[i] >> shift & 2047)];
            for (int b = 0; b < 2048; ++b) start[b + 1] += start[b];
            for (const auto i : from) to[start[ids_[i] >> shift & 2047]++] = i;
            from.swap(to);
        }
        return from;
    }

    const Ops& ops_ = ops(engine::isa());
    Arr<float> block_;
    Arr<double> clock_;
    Maybe<double> scale_;
    bool tracked_;
    Merge merge_;
    Rule rule_{};
    Table table_{};
    std::size_t space_ = 0;
    Track track_{nullptr, nullptr, 0, 0};
    std::unique_ptr<std::uint32_t[]> ids_;
    std::unique_ptr<float[]> side_;
    std::vector<std::uint32_t> iota_, keys_;
    std::vector<float> values_;
    Arr<std::uint8_t> desk_memory_;
    Desk desk_{nullptr, 0, 1, 1, 0, 0};
    std::vector<std::int64_t> own_indptr_;
    std::vector<std::uint32_t> own_keys_;
    std::vector<float> own_values_;
    Rows begun_{0, nullptr, nullptr, nullptr, nullptr, 0, nullptr, nullptr};
    py::tuple held_;
};

std::int64_t rows_select(const Arr<std::int64_t>& indptr, const Arr<std::uint32_t>& keys, const Maybe<float>& values,
                         std::uint32_t first, std::uint32_t last, std::uint32_t members, Arr<std::int64_t> out_indptr,
                         Arr<std::uint32_t> out_keys, Maybe<float> out_values, const std::string& isa) {
    need(first <= last && last <= members, "rows_select: expected first <= last <= members");
    need(indptr.size() >= 1 && out_indptr.size() == indptr.size(), "rows_select: out_indptr must be as long as indptr");
    const auto room = keys.size() + static_cast<py::ssize_t>(ROOM);
    need(out_keys.size() >= room && (!values || (out_values && out_values->size() >= room)),
         "rows_select: out needs 16 places more than there are keys");
    need(indptr.data()[0] >= 0 && indptr.data()[indptr.size() - 1] <= keys.size(), "rows_select: indptr leaves keys");
    bool falls = false;
    const std::int64_t *from = indptr.data(), *end = from + indptr.size();
    for (const std::int64_t* at = from + 1; at < end; ++at) falls |= at[-1] > at[0];
    need(!falls, "rows_select: indptr must not fall");
    const Rows rows{static_cast<std::size_t>(indptr.size() - 1), indptr.data(), keys.data(), values ? values->data() : nullptr,
                    nullptr, 0, nullptr, nullptr};
    std::int64_t* p = writable(out_indptr);
    std::uint32_t* k = writable(out_keys);
    float* v = values ? writable(*out_values) : nullptr;
    const auto chosen = ops(level(isa)).select;
    py::gil_scoped_release release;
    return static_cast<std::int64_t>(chosen(rows, first, last, members, p, k, v));
}

std::size_t combine(const Arr<std::uint32_t>& ka, const Arr<float>& va, const Arr<std::uint32_t>& kb, const Arr<float>& vb,
                    Arr<std::uint32_t> keys, Arr<float> values) {
    need(va.size() == 6 * ka.size() && vb.size() == 6 * kb.size(), "update_combine: expected values (keys, 6)");
    need(keys.size() >= ka.size() + kb.size() && values.size() >= 6 * (ka.size() + kb.size()), "update_combine: out too small");
    const auto na = static_cast<std::size_t>(ka.size()), nb = static_cast<std::size_t>(kb.size());
    std::uint32_t* k = writable(keys);
    float* v = writable(values);
    py::gil_scoped_release release;
    return ops(engine::isa()).combine(ka.data(), va.data(), na, kb.data(), vb.data(), nb, k, v);
}

}  // namespace

void bind_learn(py::module_& m) {
    using py::arg;
    auto none = [](const char* name) { return arg(name).noconvert() = py::none(); };
    py::class_<Native>(m, "Learner")
        .def(py::init<Arr<float>, Arr<double>, const Maybe<double>&, int, const std::string&, const std::string&,
                      const std::vector<float>&, bool, bool, const std::string&>(),
             arg("block").noconvert(), arg("clock").noconvert(), arg("scale").noconvert(), arg("classes"), arg("loss"),
             arg("learner"), arg("numbers"), arg("pairs"), arg("tracked"), arg("merge"))
        .def("predict", &Native::predict, arg("out").noconvert(), none("indptr"), none("keys"), none("values"), none("x"))
        .def("learn", &Native::learn, arg("out").noconvert(), arg("y").noconvert(), none("weight"), none("indptr"),
             none("keys"), none("values"), none("x"))
        .def("sit", &Native::sit, arg("desk").noconvert(), arg("member"), arg("members"), arg("lot"), arg("limit_s"))
        .def("split", &Native::split, arg("out").noconvert(), arg("y").noconvert(), none("weight"),
             arg("indptr").noconvert(), arg("keys").noconvert(), none("values"), arg("whole") = false)
        .def("begin", &Native::begin, arg("y").noconvert(), none("weight"), none("indptr"), none("keys"), none("values"), none("x"))
        .def("halve", &Native::halve, arg("start"), arg("end"), arg("sums").noconvert())
        .def("whole", &Native::whole, arg("start"), arg("end"), arg("sums").noconvert())
        .def("planes", &Native::planes)
        .def("leave", &Native::leave)
        .def("learn_one", &Native::learn_one, arg("x").noconvert(), arg("y"))
        .def("step", &Native::step, arg("ids").noconvert(), arg("g").noconvert())
        .def("slope", &Native::slope, arg("scores").noconvert(), arg("y").noconvert(), arg("out").noconvert())
        .def("pace", &Native::pace, arg("rate"))
        .def("touched", &Native::touched)
        .def("update", &Native::update)
        .def("merge", &Native::merge, arg("keys").noconvert(), arg("values").noconvert(), arg("ranks"))
        .def("rebase", &Native::rebase);
    m.def("desk_bytes", [](std::uint32_t members, std::size_t lot, std::size_t classes) {
        return Desk::bytes(members, Native::lot_floats(lot, classes));
    }, arg("members"), arg("lot"), arg("classes"));
    m.def("rows_select", &rows_select, arg("indptr").noconvert(), arg("keys").noconvert(), none("values"), arg("first"),
          arg("last"), arg("members"), arg("out_indptr").noconvert(), arg("out_keys").noconvert(), none("out_values"), arg("isa") = "");
    m.def("update_combine", &combine, arg("ka").noconvert(), arg("va").noconvert(), arg("kb").noconvert(),
          arg("vb").noconvert(), arg("keys").noconvert(), arg("values").noconvert());
    m.def("sigmoid", [](const Arr<float>& scores, Arr<float> out) {
        need(scores.size() == out.size(), "sigmoid: sizes differ");
        ops(engine::isa()).sigmoid(scores.data(), static_cast<std::size_t>(scores.size()), writable(out));
    }, arg("scores").noconvert(), arg("out").noconvert());
}
