// The loop that answers: receives requests from anybody, handles them, sends replies. It runs in a thread of its own, which sleeps
// between looks, or a step at a time from the caller's. MPI is known only by the addresses and handle values that are passed in.
#pragma once
#include <atomic>
#include <mutex>
#include <thread>
#include <vector>

#include "serve/server.h"

namespace engine::serve {

// Handles are ints (wide false) or pointers (wide true), as this MPI has them.
struct Mpi {
    void *improbe, *imrecv, *isend, *test;
    std::uint64_t comm, byte;
    bool wide;
    int any_source, request_tag, reply_tag;
};

class Loop {
public:
    Loop(Server& server, const Mpi& mpi, std::size_t frame_bytes);
    ~Loop() { stop(); }
    void start(int sleep_us, int idle_us);
    void stop();             // ends the thread, if any, and lets replies go
    bool step();             // true if something was done
    std::mutex& turn() { return turn_; }  // held while a request is handled
    bool running() const { return thread_.joinable(); }
    int error() const { return error_.load(); }

private:
    struct Slot { std::vector<std::uint8_t> buffer; std::uint64_t request = 0; bool busy = false; };
    bool receive();          // begins to take a message, where one has come
    bool test(std::uint64_t& request);
    bool ok(int code);
    bool sending();          // a reply is still on its way
    Slot* free_reply();

    Server& server_;
    Mpi mpi_;
    std::vector<Slot> in_, out_;
    std::size_t first_ = 0, taken_ = 0;  // of in_: the message that is handled next, and how many are being taken
    std::thread thread_;
    std::atomic<bool> stop_{false};
    std::atomic<int> error_{0};
    std::mutex turn_;
};

}  // namespace engine::serve
