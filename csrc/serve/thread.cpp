#include "serve/thread.h"

#include <sched.h>
#include <sys/prctl.h>
#include <time.h>

namespace engine::serve {

namespace {

constexpr std::size_t receives = 4, replies = 16;
constexpr std::uint64_t attentive_us = 300;

template <class H>
H handle_of(std::uint64_t value) {
    H h;
    std::memcpy(&h, &value, sizeof h);
    return h;
}

template <class H>
int improbe(const Mpi& m, int* flag, std::uint64_t* message) {
    using Call = int (*)(int, int, H, int*, H*, void*);
    alignas(16) unsigned char status[256];  // larger than the status of any MPI
    H made{};
    const int code = reinterpret_cast<Call>(m.improbe)(m.any_source, m.request_tag, handle_of<H>(m.comm), flag, &made, status);
    std::memcpy(message, &made, sizeof made);
    return code;
}

template <class H>
int imrecv(const Mpi& m, void* data, int size, std::uint64_t message, std::uint64_t* request) {
    using Call = int (*)(void*, int, H, H*, H*);
    H from = handle_of<H>(message), made{};
    const int code = reinterpret_cast<Call>(m.imrecv)(data, size, handle_of<H>(m.byte), &from, &made);
    std::memcpy(request, &made, sizeof made);
    return code;
}

template <class H>
int isend(const Mpi& m, const void* data, int size, int to, std::uint64_t* request) {
    using Call = int (*)(const void*, int, H, int, int, H, H*);
    H made{};
    const int code = reinterpret_cast<Call>(m.isend)(data, size, handle_of<H>(m.byte), to, m.reply_tag, handle_of<H>(m.comm), &made);
    std::memcpy(request, &made, sizeof made);
    return code;
}

template <class H>
int tested(const Mpi& m, std::uint64_t* request, int* flag) {
    using Call = int (*)(H*, int*, void*);
    alignas(16) unsigned char status[256];
    H held = handle_of<H>(*request);
    const int code = reinterpret_cast<Call>(m.test)(&held, flag, status);
    std::memcpy(request, &held, sizeof held);
    return code;
}

void sleep_us(int us) {
    const timespec t{us / 1000000, us % 1000000 * 1000};
    nanosleep(&t, nullptr);
}

std::uint64_t monotonic_us() {
    timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return static_cast<std::uint64_t>(t.tv_sec) * 1000000 + static_cast<std::uint64_t>(t.tv_nsec) / 1000;
}

}  // namespace

Loop::Loop(Server& server, const Mpi& mpi, std::size_t frame_bytes) : server_(server), mpi_(mpi), in_(receives), out_(replies) {
    for (auto& slot : in_) slot.buffer.resize(frame_bytes);
    for (auto& slot : out_) slot.buffer.resize(frame_bytes);
}

bool Loop::ok(int code) {
    if (code) error_.store(code);
    return !code;
}

// Matched probes, not receives posted for anybody: over UCX one MPI loses a message that was there before such a receive was posted.
bool Loop::receive() {
    if (taken_ == in_.size()) return false;
    int flag = 0;
    std::uint64_t message = 0;
    if (!ok(mpi_.wide ? improbe<void*>(mpi_, &flag, &message) : improbe<int>(mpi_, &flag, &message)) || !flag) return false;
    Slot& slot = in_[(first_ + taken_) % in_.size()];
    const auto size = static_cast<int>(slot.buffer.size());
    if (ok(mpi_.wide ? imrecv<void*>(mpi_, slot.buffer.data(), size, message, &slot.request) : imrecv<int>(mpi_, slot.buffer.data(), size, message, &slot.request))) ++taken_;
    return true;
}

bool Loop::test(std::uint64_t& request) {
    int flag = 0;
    return ok(mpi_.wide ? tested<void*>(mpi_, &request, &flag) : tested<int>(mpi_, &request, &flag)) && flag;
}

Loop::Slot* Loop::free_reply() {
    for (auto& slot : out_) {
        if (slot.busy && test(slot.request)) slot.busy = false;
        if (!slot.busy) return &slot;
    }
    return nullptr;
}

bool Loop::sending() {
    bool any = false;
    for (auto& slot : out_)
        if (slot.busy) (test(slot.request) ? slot.busy = false : any = true);
    return any;
}

// Messages are taken and handled in the order they were probed, so requests of one client in the order it sent them.
bool Loop::step() {
    if (error_.load()) return false;
    const bool came = receive();
    if (!taken_) return came;
    Slot& slot = in_[first_];
    Slot* out = free_reply();
    if (!out || !test(slot.request)) return came;
    Call head;
    std::memcpy(&head, slot.buffer.data(), sizeof head);
    std::size_t size = head.size + sizeof head, from = head.client;
    if (size > slot.buffer.size()) size = 0;  // a lie: handle refuses what is left of it
    std::unique_lock<std::mutex> held(turn_);
    const std::size_t made = handle(server_, slot.buffer.data(), size, out->buffer.data(), out->buffer.size());
    held.unlock();
    first_ = (first_ + 1) % in_.size();
    --taken_;
    if (made) {
        const auto bytes = static_cast<int>(made), to = static_cast<int>(from);
        out->busy = ok(mpi_.wide ? isend<void*>(mpi_, out->buffer.data(), bytes, to, &out->request) : isend<int>(mpi_, out->buffer.data(), bytes, to, &out->request));
    }
    return true;
}

void Loop::start(int sleep, int idle) {
    if (thread_.joinable()) return;
    stop_.store(false);
    thread_ = std::thread([this, sleep, idle] {
        prctl(PR_SET_TIMERSLACK, 1000);  // ns: a sleep of 50 us is to be one, not two
        std::uint64_t last = monotonic_us();
        while (!stop_.load(std::memory_order_relaxed)) {
            if (step()) {
                last = monotonic_us();
                continue;
            }
            if (taken_ || sending()) last = monotonic_us();
            const std::uint64_t quiet = monotonic_us() - last;
            // A large message moves only while somebody looks: after work the thread goes on looking for a while.
            if (!sleep || quiet < attentive_us) sched_yield();
            else sleep_us(quiet > 1000000 ? idle : sleep);
        }
    });
}

void Loop::stop() {
    stop_.store(true);
    if (thread_.joinable()) thread_.join();
    for (int look = 0; look < 2000; ++look) {  // replies on their way; who has gone does not take his
        if (!sending()) break;
        sleep_us(500);
    }
    for (; taken_; --taken_, first_ = (first_ + 1) % in_.size())
        for (int look = 0; look < 2000 && !test(in_[first_].request); ++look) sleep_us(500);
}

}  // namespace engine::serve
