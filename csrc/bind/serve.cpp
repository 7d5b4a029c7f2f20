#include <pybind11/stl.h>
#include <time.h>

#include <memory>
#include <optional>

#include "bind/table.h"
#include "serve/thread.h"

using namespace engine::serve;
using Bytes = Arr<std::uint8_t>;

namespace {

std::uint64_t now_ns() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<std::uint64_t>(t.tv_sec) * 1000000000 + static_cast<std::uint64_t>(t.tv_nsec);
}

engine::delta::Tools tools() {
    const auto isa = engine::isa();
    return {engine::delta::ops(isa), engine::entropy::ops(isa), engine::check::ops(isa)};
}

// The owner's side: tables it answers for, the requests it has carried out, and the loop that receives them.
class PyServer {
public:
    PyServer(std::int32_t rank, std::size_t ranks, std::size_t writer) : clients_(ranks), promised_(promise_bytes) {
        need(rank >= 0 && static_cast<std::size_t>(rank) < ranks, "Server: expected a rank below the number of ranks");
        server_.rank = rank, server_.ranks = ranks, server_.writer = writer, server_.clients = clients_.data();
        server_.promised = promised_.data(), server_.promised_room = promised_.size();
        server_.now_ns = now_ns, server_.check = &engine::check::ops(engine::isa());
        server_.tools = &tools_, server_.packing = packing_.get();
    }
    void add(std::size_t table, py::object node, std::uint16_t mine) {
        auto& made = node.cast<PyNode&>();
        need(table < most_tables && mine < made.node.count, "add: expected a table below 16 and a slab of the node");
        need(!loop_ || !loop_->running(), "add: the service is running");
        need(server_.writer < made.node.slabs[mine].head->writers, "add: unknown writer");
        held_.push_back(node);
        server_.nodes[table] = &made.node, server_.mine[table] = mine, server_.init[table] = made.init.data();
    }
    py::bytes handle_frame(const Bytes& request, std::size_t room) {
        std::vector<std::uint8_t> reply(room);
        std::size_t made;
        {
            py::gil_scoped_release release;
            std::unique_lock<std::mutex> held;
            if (loop_) held = std::unique_lock<std::mutex>(loop_->turn());
            made = handle(server_, request.data(), static_cast<std::size_t>(request.size()), reply.data(), room);
        }
        return py::bytes(reinterpret_cast<const char*>(reply.data()), made);
    }
    void open(const std::vector<std::uint64_t>& calls, std::uint64_t comm, std::uint64_t byte, bool wide, int any_source, int request_tag, int reply_tag,
              std::size_t frame_bytes) {
        need(calls.size() == 4, "open: expected the addresses of MPI_Improbe, MPI_Imrecv, MPI_Isend, MPI_Test");
        Mpi mpi{reinterpret_cast<void*>(calls[0]), reinterpret_cast<void*>(calls[1]), reinterpret_cast<void*>(calls[2]), reinterpret_cast<void*>(calls[3]),
                comm, byte, wide, any_source, request_tag, reply_tag};
        loop_ = std::make_unique<Loop>(server_, mpi, frame_bytes);
    }
    void start(int sleep_us, int idle_us) {
        need(loop_ != nullptr, "start: open first");
        loop_->start(sleep_us, idle_us);
    }
    bool step() {
        if (!loop_ || loop_->running()) return false;
        py::gil_scoped_release release;
        return loop_->step();
    }
    void stop() {
        if (!loop_) return;
        py::gil_scoped_release release;
        loop_->stop();
    }
    py::dict stats() const {
        py::dict d;
        d["served"] = server_.served, d["repeated"] = server_.repeated, d["refused"] = server_.refused, d["error"] = loop_ ? loop_->error() : 0;
        d["running"] = loop_ && loop_->running();
        return d;
    }

private:
    static constexpr std::size_t promise_bytes = 1 << 20;  // a frame
    std::vector<Client> clients_;
    std::vector<std::uint8_t> promised_;
    const engine::delta::Tools tools_ = tools();
    const std::unique_ptr<Packing> packing_{new Packing};  // not cleared: pages come as they are used
    Server server_{};
    std::vector<py::object> held_;
    std::unique_ptr<Loop> loop_;
};

}  // namespace

void bind_serve(py::module_& m) {
    py::class_<PyServer>(m, "Server")
        .def(py::init<std::int32_t, std::size_t, std::size_t>(), py::arg("rank"), py::arg("ranks"), py::arg("writer"))
        .def("add", &PyServer::add, py::arg("table"), py::arg("node"), py::arg("mine"))
        .def("handle", &PyServer::handle_frame, py::arg("request").noconvert(), py::arg("room"))
        .def("open", &PyServer::open, py::arg("calls"), py::arg("comm"), py::arg("byte"), py::arg("wide"), py::arg("any_source"), py::arg("request_tag"),
             py::arg("reply_tag"), py::arg("frame_bytes"))
        .def("start", &PyServer::start, py::arg("sleep_us"), py::arg("idle_us"))
        .def("step", &PyServer::step)
        .def("stop", &PyServer::stop)
        .def("stats", &PyServer::stats);
    m.def("rows_pack", [](const Arr<std::uint64_t>& keys, const Arr<std::uint32_t>& versions, const Arr<std::uint32_t>& clocks, const Arr<float>& values,
                          const std::optional<Arr<std::uint32_t>>& base_versions, const std::optional<Arr<float>>& base) {
        const auto n = static_cast<std::size_t>(keys.size());
        need(values.ndim() == 2 && static_cast<std::size_t>(values.shape(0)) == n && versions.size() == keys.size() && clocks.size() == keys.size(),
             "rows_pack: expected keys, versions, clocks (n,) and values (n, width)");
        const auto width = static_cast<std::size_t>(values.shape(1));
        need(n && n <= most_rows && n * width <= most_values, "rows_pack: too many rows");
        need(bool(base_versions) == bool(base) && (!base || (base->size() == values.size() && base_versions->size() == keys.size())),
             "rows_pack: expected a base of the same shape, and its versions");
        Arr<std::uint8_t> out(static_cast<py::ssize_t>(pack_bound(n, width)));
        const Parcel rows{n, width, keys.data(), versions.data(), clocks.data(), values.data(), base ? base_versions->data() : nullptr, base ? base->data() : nullptr};
        auto* to = writable(out);
        std::size_t size;
        {
            py::gil_scoped_release release;
            static thread_local const std::unique_ptr<Packing> work{new Packing};
            size = pack(tools(), rows, to, *work);
        }
        return py::object(out[py::slice(0, static_cast<py::ssize_t>(size), 1)]);
    }, py::arg("keys").noconvert(), py::arg("versions").noconvert(), py::arg("clocks").noconvert(), py::arg("values").noconvert(),
       py::arg("base_versions").noconvert() = py::none(), py::arg("base").noconvert() = py::none());
    m.def("call_crc", [](const Bytes& frame, std::size_t size) {
        need(size >= sizeof(Call) && size <= static_cast<std::size_t>(frame.size()), "call_crc: expected a frame");
        return crc_of(engine::check::ops(engine::isa()), frame.data(), size);
    }, py::arg("frame").noconvert(), py::arg("size"));
    m.def("call_seal", [](Bytes& frame) {
        need(static_cast<std::size_t>(frame.size()) >= sizeof(Call), "call_seal: expected a frame");
        return seal(engine::check::ops(engine::isa()), writable(frame), static_cast<std::size_t>(frame.size()));
    }, py::arg("frame").noconvert());
}
