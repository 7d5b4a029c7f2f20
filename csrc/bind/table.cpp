#include "bind/table.h"

#include "bind/names.h"

#include <pybind11/stl.h>

using namespace engine;
using namespace engine::table;
using Keys = Arr<std::uint64_t>;
using U32 = Arr<std::uint32_t>;
using F32 = Arr<float>;
using Bytes = Arr<std::uint8_t>;

static std::size_t size_of(const py::array& a) { return static_cast<std::size_t>(a.size()); }

PySlab::PySlab(Bytes bytes) : memory(std::move(bytes)) {
    auto* at = writable(memory);
    need(size_of(memory) >= head_bytes && reinterpret_cast<Head*>(at)->magic == magic, "slab: this memory holds none");
    const Head& h = *reinterpret_cast<Head*>(at);
    need(h.buckets && !(h.buckets & (h.buckets - 1)) && h.row_bytes == row_bytes(h.width) &&
             size_of(memory) >= slab_bytes(h.buckets, h.width, h.writers), "slab: its head does not fit its memory");
    slab = view(at);
}

static Rule rule_of(int op, float rate, float more, const PyNode& n) {
    need(op >= 0 && op <= static_cast<int>(Op::merge), "table: unknown operation");
    need(static_cast<Op>(op) != Op::merge || n.node.merger.run, "table: merge asks for a table that was told its learner");
    need(sent(static_cast<Op>(op), size_of(n.init)), "table: this operation keeps state beside each weight: the width must be even");
    return {static_cast<Op>(op), rate, more, &n.node.merger};
}

static void merge_row(const void* self, float* row, const float* item, std::size_t width) {
    const auto& n = *static_cast<const PyNode*>(self);
    engine::learn::ops(isa()).own(n.rule, n.how, row, item, width / 4);
}

static py::tuple result(Done d) { return py::make_tuple(d.count, static_cast<int>(d.status)); }

static void rows_fit(const PySlab& s, const Keys& keys, const U32& versions, const F32& values) {
    need(versions.size() == keys.size() && size_of(values) == size_of(keys) * s.slab.width, "table: keys, versions and values differ in size");
}

struct Chosen {  // the slots a scan wants
    route::Map<std::int16_t> narrow{};
    route::Map<std::int32_t> wide{};
    bool is_narrow = true;
    const std::uint8_t* wanted = nullptr;
    Chosen(const PyNode* node, const std::optional<Bytes>& mask) {
        if (!mask) return;
        need(node && size_of(*mask) >= node->node.ledger.room, "table: one byte a slot, and the node whose ledger tells the slots");
        is_narrow = node->node.ledger.narrow;
        if (is_narrow) narrow = node->node.ledger.map16();
        else wide = node->node.ledger.map32();
        wanted = mask->data();
    }
    const route::Map<std::int16_t>* n16() const { return is_narrow ? &narrow : nullptr; }
    const route::Map<std::int32_t>* n32() const { return is_narrow ? nullptr : &wide; }
};

static void bind_slab(py::module_& m) {
    py::class_<PySlab>(m, "Slab")
        .def(py::init<Bytes>(), py::arg("memory").noconvert())
        .def("stats", [](const PySlab& s) {
            const Head& h = *s.slab.head;
            py::dict d;
            d["buckets"] = h.buckets, d["width"] = h.width, d["used"] = h.used.load(), d["graves"] = h.graves.load();
            d["generation"] = h.generation.load(), d["row_bytes"] = h.row_bytes, d["gate"] = h.gate.load(), d["clock"] = h.clock.load(), d["dirty"] = h.dirty.load();
            return d;
        })
        .def("clock", [](PySlab& s, std::uint32_t clock) { s.slab.head->clock.store(clock); }, py::arg("clock"))
        .def("gate", [](PySlab& s, bool closed) { s.slab.head->gate.store(closed, std::memory_order_seq_cst); }, py::arg("closed"))
        .def("bump", [](PySlab& s, std::uint64_t by) { return s.slab.head->generation.fetch_add(by, std::memory_order_seq_cst) + by; }, py::arg("by") = 2)
        .def("inside", [](const PySlab& s, std::size_t except) { return inside(s.slab, except); }, py::arg("except_"))
        .def("gather", [](const PySlab& s, const Keys& keys, const F32& init, F32& out, U32& versions) {
            rows_fit(s, keys, versions, out);
            need(size_of(init) == s.slab.width, "table: init must be one row");
            auto *o = writable(out); auto* v = writable(versions);
            py::gil_scoped_release release;
            const Done d = gather(s.slab, keys.data(), size_of(keys), init.data(), o, v);
            py::gil_scoped_acquire acquire;
            return result(d);
        }, py::arg("keys").noconvert(), py::arg("init").noconvert(), py::arg("out").noconvert(), py::arg("versions").noconvert())
        .def("stage", [](const PySlab& s, std::size_t writer, const Keys& keys, const U32& versions, const U32& clocks, const F32& values) {
            rows_fit(s, keys, versions, values);
            need(clocks.size() == keys.size() && writer < s.slab.head->writers, "stage: one clock a row, and a known writer");
            py::gil_scoped_release release;
            const std::uint64_t generation = s.slab.head->generation.load(std::memory_order_acquire);
            Done d{0, generation & 1 ? Status::busy : begin(s.slab, writer, generation)};
            if (d.status == Status::ok) {
                d = stage(s.slab, keys.data(), versions.data(), clocks.data(), size_of(keys), values.data());
                end(s.slab, writer);
            }
            py::gil_scoped_acquire acquire;
            return result(d);
        }, py::arg("writer"), py::arg("keys").noconvert(), py::arg("versions").noconvert(), py::arg("clocks").noconvert(), py::arg("values").noconvert())
        .def("keep_dirty", [](PySlab& s, std::size_t set, bool on) {
            need(set < dirty_sets, "table: two sets of dirty bits");
            if (on) std::memset(static_cast<void*>(s.slab.dirty[set]), 0, dirty_bytes(s.slab.mask + 1));
            on ? s.slab.head->dirty.fetch_or(1u << set) : s.slab.head->dirty.fetch_and(~(1u << set));
        }, py::arg("set"), py::arg("on"))
        .def("take", [](const PySlab& s, int set, const PyNode* node, const std::optional<Bytes>& wanted, std::uint64_t at, Keys& keys, U32& versions, U32& clocks, F32& values) {
            rows_fit(s, keys, versions, values);
            need(clocks.size() == keys.size() && set < static_cast<int>(dirty_sets), "take: one clock a row; dirty set 0 or 1, or -1 for all rows");
            const Chosen chosen(node, wanted);
            const Export out{writable(keys), writable(versions), writable(clocks), writable(values)};
            py::gil_scoped_release release;
            const Done d = take(s.slab, set, chosen.n16(), chosen.n32(), chosen.wanted, &at, out, size_of(keys));
            py::gil_scoped_acquire acquire;
            return py::make_tuple(d.count, static_cast<int>(d.status), at);
        }, py::arg("set"), py::arg("node").none(true), py::arg("wanted").noconvert().none(true), py::arg("at"), py::arg("keys").noconvert(),
           py::arg("versions").noconvert(), py::arg("clocks").noconvert(), py::arg("values").noconvert())
        .def("count", [](const PySlab& s, const PyNode* node, const std::optional<Bytes>& wanted) {
            const Chosen chosen(node, wanted);
            py::gil_scoped_release release;
            return count(s.slab, chosen.n16(), chosen.n32(), chosen.wanted);
        }, py::arg("node").none(true), py::arg("wanted").noconvert().none(true))
        .def("drop", [](const PySlab& s, const PyNode* node, const std::optional<Bytes>& wanted, std::uint32_t older) {
            const Chosen chosen(node, wanted);
            py::gil_scoped_release release;
            return drop(s.slab, chosen.n16(), chosen.n32(), chosen.wanted, older);
        }, py::arg("node").none(true), py::arg("wanted").noconvert().none(true), py::arg("older"))
        .def("rebuild", [](PySlab& s, Bytes& scratch) {
            need(size_of(scratch) >= s.slab.head->used.load() * s.slab.row_bytes, "rebuild: scratch is too small");
            auto* at = writable(scratch);
            py::gil_scoped_release release;
            rebuild(s.slab, at);
        }, py::arg("scratch").noconvert())
        .def("ticket", [](PySlab& s, std::size_t line) { return take_ticket(s.slab.locks[line % lock_lines]); }, py::arg("line"))
        .def("turn", [](PySlab& s, std::size_t line, std::uint32_t ticket, std::uint32_t epoch, std::uint64_t now_ns, std::uint64_t lease_ns) {
            return static_cast<int>(turn(s.slab.locks[line % lock_lines], ticket, epoch, now_ns, lease_ns));
        }, py::arg("line"), py::arg("ticket"), py::arg("epoch"), py::arg("now_ns"), py::arg("lease_ns"))
        .def("release", [](PySlab& s, std::size_t line, std::uint32_t ticket) { return static_cast<int>(release(s.slab.locks[line % lock_lines], ticket)); },
             py::arg("line"), py::arg("ticket"));
}

static std::unique_ptr<PyNode> make_node(Arr<std::uint64_t> head, py::array owner, U32 epoch, U32 stamp, Bytes state, Arr<std::int32_t> backup, U32 forks,
                                         int bits, std::vector<Bytes> memories, Arr<std::int16_t> place, F32 init) {
    need(!memories.empty() && memories.size() <= most_ranks, "node: expected 1 to 256 slabs");
    need(owner.itemsize() == 2 || owner.itemsize() == 4, "node: owners of 2 or 4 bytes");
    auto made = std::make_unique<PyNode>();
    Ledger& l = made->node.ledger;
    l.head = writable(head), l.owner = owner.mutable_data(), l.epoch = writable(epoch), l.stamp = writable(stamp), l.state = writable(state);
    l.backup = writable(backup), l.forks = reinterpret_cast<route::Fork*>(writable(forks)), l.bits = bits, l.narrow = owner.itemsize() == 2;
    l.room = size_of(epoch), l.backups = static_cast<int>(size_of(backup) / l.room);
    need(size_of(owner) > l.room && size_of(state) == l.room, "node: the ledger's arrays differ in size");
    for (auto& memory : memories) {
        PySlab slab(memory);
        need(slab.slab.width == size_of(init), "node: every slab and init must have one width");
        made->node.slabs[made->node.count++] = slab.slab;
        made->held.push_back(memory);
    }
    for (py::ssize_t r = 0; r < place.size(); ++r) need(place.data()[r] < static_cast<int>(made->node.count), "node: a rank's place is past the slabs");
    made->place = place, made->init = init;
    made->node.place = made->place.data();
    made->arrays = {head, owner, epoch, stamp, state, backup, forks};
    return made;
}

static void bind_node(py::module_& m) {
    py::class_<PyNode>(m, "Node")
        .def(py::init(&make_node), py::arg("head").noconvert(), py::arg("owner"), py::arg("epoch").noconvert(), py::arg("stamp").noconvert(),
             py::arg("state").noconvert(), py::arg("backup").noconvert(), py::arg("forks").noconvert(), py::arg("bits"), py::arg("memories"),
             py::arg("place").noconvert(), py::arg("init").noconvert())
        .def("gather", [](const PyNode& n, const Keys& keys, F32& out, U32& versions, U32& away) {
            need(size_of(out) == size_of(keys) * size_of(n.init) && versions.size() == keys.size() && away.size() == keys.size(), "gather: sizes differ");
            auto* o = writable(out);
            auto *v = writable(versions), *a = writable(away);
            std::size_t far = 0;
            py::gil_scoped_release release;
            const Status status = gather(n.node, keys.data(), size_of(keys), n.init.data(), o, v, a, &far);
            py::gil_scoped_acquire acquire;
            return py::make_tuple(far, static_cast<int>(status));
        }, py::arg("keys").noconvert(), py::arg("out").noconvert(), py::arg("versions").noconvert(), py::arg("away").noconvert())
        .def("apply", [](const PyNode& n, std::size_t writer, int op, float rate, float more, const Keys& keys, const F32& items, U32& versions, U32& away,
                         std::size_t at, std::size_t far) {
            const Rule rule = rule_of(op, rate, more, n);
            need(size_of(items) == size_of(keys) * sent(rule.op, size_of(n.init)) && versions.size() == keys.size() && away.size() == keys.size() &&
                     at <= size_of(keys) && far <= at && writer < n.node.slabs[0].head->writers, "apply: sizes differ, or an unknown writer");
            auto *v = writable(versions), *a = writable(away);
            py::gil_scoped_release release;
            const Status status = apply(n.node, writer, rule, keys.data(), size_of(keys), items.data(), n.init.data(), v, a, &far, &at);
            py::gil_scoped_acquire acquire;
            return py::make_tuple(at, far, static_cast<int>(status));
        }, py::arg("writer"), py::arg("op"), py::arg("rate"), py::arg("more"), py::arg("keys").noconvert(), py::arg("items").noconvert(),
           py::arg("versions").noconvert(), py::arg("away").noconvert(), py::arg("at") = 0, py::arg("far") = 0)
        .def("commit", [](const PyNode& n, std::size_t writer, const Keys& keys, const U32& expected, const F32& values) {
            need(expected.size() == keys.size() && size_of(values) == size_of(keys) * size_of(n.init), "commit: sizes differ");
            need(writer < n.node.slabs[0].head->writers && size_of(keys) <= 4096, "commit: an unknown writer, or more than 4096 rows");
            for (py::ssize_t i = 1; i < keys.size(); ++i) need(keys.data()[i - 1] < keys.data()[i], "commit: expected ascending keys");
            py::gil_scoped_release release;
            std::size_t at = 0;
            const Status status = commit(n.node, writer, keys.data(), expected.data(), size_of(keys), values.data(), n.init.data(), &at);
            py::gil_scoped_acquire acquire;
            return result({at, status});
        }, py::arg("writer"), py::arg("keys").noconvert(), py::arg("expected").noconvert(), py::arg("values").noconvert())
        .def("merges", [](PyNode& n, const std::string& learner, const std::string& how, const std::vector<float>& numbers) {
            need(numbers.size() == 4 && size_of(n.init) % 4 == 0, "merges: expected rate, beta, l1, l2, and rows of four floats a class");
            n.rule = {};
            n.rule.learner = engine::learn::named<engine::learn::Learner>(learner, engine::learn::learner_names, "learner");
            n.rule.rate = numbers[0], n.rule.beta = numbers[1], n.rule.l1 = numbers[2], n.rule.l2 = numbers[3];
            n.how = engine::learn::named<engine::learn::Merge>(how, engine::learn::merge_names, "merge");
            n.node.merger = {merge_row, &n};
        }, py::arg("learner"), py::arg("how"), py::arg("numbers"))
        .def("learn", [](PyNode& n, const Bytes& changes) {
            const std::size_t size = n.node.ledger.change_bytes();
            need(size_of(changes) % size == 0, "learn: not a whole number of changes");
            return engine::table::learn(n.node.ledger, changes.data(), size_of(changes) / size);
        }, py::arg("changes").noconvert())
        .def("flip", [](PyNode& n, const Bytes& changes) {
            const std::size_t size = n.node.ledger.change_bytes();
            need(size_of(changes) % size == 0, "flip: not a whole number of changes");
            return flip(n.node.ledger, changes.data(), size_of(changes) / size);
        }, py::arg("changes").noconvert());
}

void bind_table(py::module_& m) {
    m.def("slab_bytes", [](std::uint64_t buckets, std::size_t width, std::size_t writers) { return slab_bytes(buckets, width, writers); },
          py::arg("buckets"), py::arg("width"), py::arg("writers"));
    m.def("slab_make", [](Bytes& memory, std::uint64_t buckets, std::size_t width, std::size_t writers, std::uint32_t admit) {
        need(buckets >= 64 && !(buckets & (buckets - 1)), "slab: expected a power of two of buckets, at least 64");
        need(width && writers && size_of(memory) >= slab_bytes(buckets, width, writers), "slab: the memory is too small");
        need(reinterpret_cast<std::uintptr_t>(memory.data()) % 64 == 0, "slab: expected memory aligned to 64 bytes");
        make(writable(memory), buckets, width, writers, admit);
    }, py::arg("memory").noconvert(), py::arg("buckets"), py::arg("width"), py::arg("writers"), py::arg("admit"));
    m.def("slab_find", [](const Keys& keys, std::uint64_t buckets, Keys& out) {
        need(keys.size() == out.size() && buckets && !(buckets & (buckets - 1)), "slab_find: sizes differ");
        auto* o = writable(out);
        for (py::ssize_t i = 0; i < keys.size(); ++i) o[i] = spread(keys.data()[i]) & (buckets - 1);
    }, py::arg("keys").noconvert(), py::arg("buckets"), py::arg("out").noconvert());
    bind_slab(m);
    bind_node(m);
}
