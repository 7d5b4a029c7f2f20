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
int irecv(const Mpi& m, void* data, int size, std::uint64_t* request) {
    using Call = int (*)(void*, int, H, int, int, H, H*);
    H made{};
    const int code = reinterpret_cast<Call>(m.irecv)(data, size, handle_of<H>(m.byte), m.any_source, m.request_tag, handle_of<H>(m.comm), &made);
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
    alignas(16) unsigned char status[256];  // larger than the status of any MPI
    H held = handle_of<H>(*request);
    const int code = reinterpret_cast<Call>(m.test)(&held, flag, status);
    std::memcpy(request, &held, sizeof held);
    return code;
}

template <class H>
int cancelled(const Mpi& m, std::uint64_t* request) {
    using Call = int (*)(H*);
    H held = handle_of<H>(*request);
    return reinterpret_cast<Call>(m.cancel)(&held);
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

void Loop::receive(Slot& slot) {
    const auto size = static_cast<int>(slot.buffer.size());
    slot.busy = ok(mpi_.wide ? irecv<void*>(mpi_, slot.buffer.data(), size, &slot.request) : irecv<int>(mpi_, slot.buffer.data(), size, &slot.request));
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

// Receives complete in the order they were posted, so requests of one client are handled in the order it sent them.
bool Loop::step() {
    if (!posted_) {
        for (auto& slot : in_) receive(slot);
        posted_ = true;
    }
    Slot& slot = in_[next_];
    if (error_.load() || !slot.busy) return false;
    Slot* out = free_reply();
    if (!out || !test(slot.request)) return false;
    Call head;
    std::memcpy(&head, slot.buffer.data(), sizeof head);
    std::size_t size = head.size + sizeof head, from = head.client;
    if (size > slot.buffer.size()) size = 0;  // a lie: handle refuses what is left of it
    std::unique_lock<std::mutex> held(turn_);
    const std::size_t made = handle(server_, slot.buffer.data(), size, out->buffer.data(), out->buffer.size());
    held.unlock();
    receive(slot);
    next_ = (next_ + 1) % in_.size();
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
        bool any = false;
        for (auto& slot : out_)
            if (slot.busy) (test(slot.request) ? slot.busy = false : any = true);
        if (!any) break;
        sleep_us(500);
    }
    if (!posted_) return;
    for (auto& slot : in_) {
        if (!slot.busy) continue;
        mpi_.wide ? cancelled<void*>(mpi_, &slot.request) : cancelled<int>(mpi_, &slot.request);
        for (int look = 0; look < 2000 && !test(slot.request); ++look) sleep_us(500);
        slot.busy = false;
    }
    posted_ = false;
}

}  // namespace engine::serve
