#include "route/ops.h"

#include "bind/array.h"

namespace {

using namespace engine::route;
using Keys = Arr<std::uint64_t>;
using Forks = Arr<std::uint32_t>;

// The spare entry after the last slot lets a 16-bit entry be fetched as 32 bits. Forks are trusted to lie inside the table: the ledger made them.
template <class T>
Map<T> mapped(const Arr<T>& owner, const Forks& forks, int bits) {
    need(bits >= 1 && bits <= 30 && owner.size() > (py::ssize_t(1) << bits), "route: expected 2^bits slots and a spare entry, bits 1..30");
    need(forks.ndim() == 2 && forks.shape(1) == 2, "route: expected forks of shape (n, 2)");
    return {owner.data(), reinterpret_cast<const Fork*>(forks.data()), bits};
}

template <class T, class Run>
void def(py::module_& m, Run run) {
    m.def("route", [run](const Keys& keys, const Arr<T>& owner, const Forks& forks, int bits, Arr<std::int32_t>& out, const std::string& isa) {
        need(out.size() == keys.size(), "route: out and keys differ in size");
        const auto map = mapped(owner, forks, bits);
        const auto* k = keys.data();
        auto* o = writable(out);
        const auto n = static_cast<std::size_t>(keys.size());
        const auto& table = ops(level(isa));
        py::gil_scoped_release release;
        run(table, map, k, n, o);
    }, py::arg("keys").noconvert(), py::arg("owner").noconvert(), py::arg("forks").noconvert(), py::arg("bits"),
       py::arg("out").noconvert(), py::kw_only(), py::arg("isa") = "");
    m.def("slots", [](const Keys& keys, const Arr<T>& owner, const Forks& forks, int bits, Arr<std::uint32_t>& out) {
        need(out.size() == keys.size(), "slots: out and keys differ in size");
        const auto map = mapped(owner, forks, bits);
        const auto* k = keys.data();
        auto* o = writable(out);
        const auto n = static_cast<std::size_t>(keys.size());
        py::gil_scoped_release release;
        for (std::size_t i = 0; i < n; ++i) o[i] = slot(map, k[i]);
    }, py::arg("keys").noconvert(), py::arg("owner").noconvert(), py::arg("forks").noconvert(), py::arg("bits"), py::arg("out").noconvert());
}

}  // namespace

void bind_route(py::module_& m) {
    def<std::int16_t>(m, [](const Ops& t, const Map<std::int16_t>& map, const std::uint64_t* k, std::size_t n, std::int32_t* o) { t.route16(map, k, n, o); });
    def<std::int32_t>(m, [](const Ops& t, const Map<std::int32_t>& map, const std::uint64_t* k, std::size_t n, std::int32_t* o) { t.route32(map, k, n, o); });
    m.def("distinct", [](const Arr<std::uint32_t>& keys, Keys& each, Arr<std::uint32_t>& place, Keys& table) {
        const auto n = static_cast<std::size_t>(keys.size()), room = static_cast<std::size_t>(table.size());
        need(room && !(room & (room - 1)) && room >= 2 * n && n < (std::size_t(1) << 32), "distinct: expected scratch of a power of two, twice the keys");
        need(static_cast<std::size_t>(each.size()) >= n && place.size() == keys.size(), "distinct: sizes differ");
        const auto* k = keys.data();
        auto *e = writable(each), *t = writable(table);
        auto* p = writable(place);
        py::gil_scoped_release release;
        return distinct(k, n, e, p, t, room);
    }, py::arg("keys").noconvert(), py::arg("each").noconvert(), py::arg("place").noconvert(), py::arg("table").noconvert());
    m.def("heavy_count", [](const Keys& keys, std::uint64_t weight, Keys& key, Keys& count, Keys& error, Arr<std::uint32_t>& heap,
                            Arr<std::uint32_t>& where, Arr<std::uint32_t>& place, std::size_t used) {
        const auto room = static_cast<std::size_t>(key.size());
        need(room && !(room & (room - 1)), "heavy: expected a power of two of counters");
        need(count.size() == key.size() && error.size() == key.size() && heap.size() == key.size() && where.size() == key.size() &&
                 place.size() == 2 * key.size() && used <= room, "heavy: the arrays differ in size");
        const auto* k = keys.data();
        const auto n = static_cast<std::size_t>(keys.size());
        auto *a = writable(key), *b = writable(count), *c = writable(error);
        auto *d = writable(heap), *e = writable(where), *f = writable(place);
        py::gil_scoped_release release;
        return heavy_count(k, n, weight, a, b, c, d, e, f, room, used);
    }, py::arg("keys").noconvert(), py::arg("weight"), py::arg("key").noconvert(), py::arg("count").noconvert(), py::arg("error").noconvert(),
       py::arg("heap").noconvert(), py::arg("where").noconvert(), py::arg("place").noconvert(), py::arg("used"));
    m.def("seen", [](const Keys& ids, std::int64_t part, std::int64_t low, bool add, Keys& name, Arr<std::int64_t>& since, std::size_t used,
                     Arr<std::uint8_t>& fresh) {
        const auto room = static_cast<std::size_t>(name.size());
        const auto n = static_cast<std::size_t>(ids.size());
        need(room && !(room & (room - 1)) && since.size() == name.size() && fresh.size() == ids.size(), "seen: the arrays differ in size");
        need(2 * (used + (add ? n : 0)) <= room, "seen: the table would be more than half full");
        const auto* k = ids.data();
        auto* a = writable(name);
        auto* b = writable(since);
        auto* c = writable(fresh);
        py::gil_scoped_release release;
        return seen(k, n, part, low, add, a, b, room, used, c);
    }, py::arg("ids").noconvert(), py::arg("part"), py::arg("low"), py::arg("add"), py::arg("name").noconvert(),
       py::arg("since").noconvert(), py::arg("used"), py::arg("fresh").noconvert());
}
