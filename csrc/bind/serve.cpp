#include <pybind11/stl.h>
#include <time.h>

#include <memory>

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

// The owner's side: tables it answers for, the requests it has carried out, and the loop that receives them.
class PyServer {
public:
    PyServer(std::int32_t rank, std::size_t ranks, std::size_t writer) : clients_(ranks), promised_(promise_bytes) {
        need(rank >= 0 && static_cast<std::size_t>(rank) < ranks, "Server: expected a rank below the number of ranks");
        server_.rank = rank, server_.ranks = ranks, server_.writer = writer, server_.clients = clients_.data();
        server_.promised = promised_.data(), server_.promised_room = promised_.size();
        server_.now_ns = now_ns, server_.check = &engine::check::ops(engine::isa());
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
    m.def("call_crc", [](const Bytes& frame, std::size_t size) {
        need(size >= sizeof(Call) && size <= static_cast<std::size_t>(frame.size()), "call_crc: expected a frame");
        return crc_of(engine::check::ops(engine::isa()), frame.data(), size);
    }, py::arg("frame").noconvert(), py::arg("size"));
    m.def("call_seal", [](Bytes& frame) {
        need(static_cast<std::size_t>(frame.size()) >= sizeof(Call), "call_seal: expected a frame");
        return seal(engine::check::ops(engine::isa()), writable(frame), static_cast<std::size_t>(frame.size()));
    }, py::arg("frame").noconvert());
}
