#include "serve/server.h"

namespace engine::serve {

using namespace table;

static void advance(Client& c, std::uint64_t acked) {
    if (acked <= c.acked) return;
    if (acked - c.acked >= window) std::memset(c.done, 0, sizeof c.done);
    else for (std::uint64_t s = c.acked + 1; s <= acked; ++s) c.done[s % window / 64] &= ~(std::uint64_t(1) << (s % 64));
    c.acked = acked;
}

bool fresh(Client& c, std::uint64_t seq, std::uint64_t acked) {
    advance(c, acked);
    return seq > c.acked && !(c.done[seq % window / 64] >> (seq % 64) & 1);
}

static void done(Client& c, std::uint64_t seq) { c.done[seq % window / 64] |= std::uint64_t(1) << (seq % 64); }

void merge(Client& c, const Client& other) {
    Client o = other;
    advance(c, o.acked);
    advance(o, c.acked);
    for (std::size_t i = 0; i < window / 64; ++i) c.done[i] |= o.done[i];
}

std::uint32_t seal(const check::Ops& check, std::uint8_t* frame, std::size_t size) {
    auto* head = reinterpret_cast<Call*>(frame);
    head->crc = 0;
    return head->crc = check.crc32c(frame, size, 0);
}

std::uint32_t crc_of(const check::Ops& check, const std::uint8_t* frame, std::size_t size) {
    Call blank;
    std::memcpy(&blank, frame, sizeof blank);
    blank.crc = 0;
    return check.crc32c(frame + sizeof blank, size - sizeof blank, check.crc32c(reinterpret_cast<const std::uint8_t*>(&blank), sizeof blank, 0));
}

namespace {

struct Turn {
    Server& s;
    Call call;
    const std::uint8_t* body;
    std::uint8_t *reply, *out;  // out: after the head
    std::size_t room;           // of out
    Status status = Status::ok;
    std::size_t bytes = 0, count = 0;

    Node* node() const { return call.table < most_tables ? s.nodes[call.table] : nullptr; }
    const Slab& slab() const { return node()->slabs[s.mine[call.table]]; }
    template <class T>
    const T* read(std::size_t n) {
        const auto* at = reinterpret_cast<const T*>(body);
        body += n * sizeof(T);
        return at;
    }
    template <class T>
    T* write(std::size_t n) {
        if (bytes + n * sizeof(T) > room) return nullptr;
        auto* at = reinterpret_cast<T*>(out + bytes);
        bytes += n * sizeof(T);
        return at;
    }

    // Entries of the slots of the keys that are another's, once each, and some more that changed.
    bool strayed(const std::uint64_t* keys) {
        const Ledger& l = node()->ledger;
        std::uint32_t last = ~0u;
        for (std::size_t i = 0; i < call.count; ++i) {
            const std::uint32_t slot = l.slot(keys[i]);
            if (l.rank(slot) == s.rank || slot == last) continue;
            last = slot;
            if (count >= told || !tell(l, slot)) break;
        }
        return count > 0;
    }
    bool tell(const Ledger& l, std::uint32_t slot) {
        auto* at = write<std::uint8_t>(l.change_bytes());
        if (!at) return false;
        entry(l, slot, at);
        return ++count;
    }

    // In, with the map as it is now and all keys mine; else the status says why not.
    bool begin_mine(const std::uint64_t* keys) {
        const std::uint64_t generation = slab().head->generation.load(std::memory_order_acquire);
        if (generation & 1) return status = Status::busy, false;
        if (strayed(keys)) return status = Status::moved, false;
        status = begin(slab(), s.writer, generation);
        if (status == Status::moved) status = Status::busy;  // between the two looks: the sender asks again
        return status == Status::ok;
    }

    void get() {
        const auto* keys = read<std::uint64_t>(call.count);
        const Slab& t = slab();
        const std::uint64_t generation = t.head->generation.load(std::memory_order_acquire);
        if (generation & 1) return void(status = Status::busy);
        if (strayed(keys)) return void(status = Status::moved);
        auto* versions = write<std::uint32_t>(call.count);
        auto* values = versions ? write<float>(call.count * t.width) : nullptr;
        if (!values) return void(status = Status::full);
        const Done found = gather(t, keys, call.count, s.init[call.table], values, versions);
        std::atomic_thread_fence(std::memory_order_acquire);
        status = t.head->generation.load(std::memory_order_relaxed) != generation ? Status::busy : found.status;
        if (status != Status::ok) bytes = 0;
        else count = call.count;
    }

    void apply_items() {
        const auto* keys = read<std::uint64_t>(call.count);
        const Rule rule{static_cast<Op>(call.op), call.rate, call.more, &node()->merger};
        const auto* items = read<float>(call.count * sent(rule.op, slab().width));
        Client& client = s.clients[call.client];
        const bool first = fresh(client, call.seq, call.acked);
        auto* versions = write<std::uint32_t>(call.count);
        if (!versions) return void(status = Status::full);
        std::memset(versions, 0, 4 * std::size_t(call.count));
        count = call.count;
        if (!first) return void(++s.repeated);
        bytes = count = 0;
        if (!begin_mine(keys)) return;
        bytes = 4 * std::size_t(call.count);
        const Done finished = apply(slab(), rule, keys, call.count, items, s.init[call.table], versions);
        end(slab(), s.writer);
        status = finished.status, count = finished.count;
        if (count) done(client, call.seq);  // what is left of it comes as a new request
    }

    void commit_rows() {
        const auto* keys = read<std::uint64_t>(call.count);
        const auto* expected = read<std::uint32_t>(call.count);
        const auto* values = read<float>(call.count * slab().width);
        Client& client = s.clients[call.client];
        if (!fresh(client, call.seq, call.acked)) return void((++s.repeated, count = call.count));
        if (!begin_mine(keys)) return;
        std::size_t at = 0;
        status = commit(slab(), keys, expected, call.count, values, s.init[call.table], &at);
        end(slab(), s.writer);
        count = status == Status::ok ? call.count : at;
        if (status == Status::ok) done(client, call.seq);
    }

    void stage_rows() {
        const auto* keys = read<std::uint64_t>(call.count);
        const auto* versions = read<std::uint32_t>(call.count);
        const auto* clocks = read<std::uint32_t>(call.count);
        const auto* values = read<float>(call.count * slab().width);
        const std::uint64_t generation = slab().head->generation.load(std::memory_order_acquire);
        status = generation & 1 ? Status::busy : begin(slab(), s.writer, generation);
        if (status != Status::ok) return void(status = Status::busy);
        const Done finished = stage(slab(), keys, versions, clocks, call.count, values);
        end(slab(), s.writer);
        status = finished.status, count = finished.count;
    }

    // Packed copies; a delta is taken against rows of this table, and refused whole where one is not at the version it names.
    void pack_rows() {
        Packing& p = *s.packing;
        const Slab& t = slab();
        if (!unpack_head(*s.tools, body, call.size, call.count, t.width, p)) return void(status = Status::conflict);
        if (p.against) {
            std::memset(p.number, 0, 4 * std::size_t(call.count));
            const Done found = gather(t, p.keys, call.count, s.init[call.table], p.base, p.number);
            if (found.status != Status::ok) return void(status = found.status);
            if (std::memcmp(p.number, p.base_versions, 4 * std::size_t(call.count))) return void(status = Status::conflict);
        }
        if (!unpack_values(*s.tools, call.count, t.width, p)) return void(status = Status::conflict);
        const std::uint64_t generation = t.head->generation.load(std::memory_order_acquire);
        status = generation & 1 ? Status::busy : begin(t, s.writer, generation);
        if (status != Status::ok) return void(status = Status::busy);
        const Done finished = stage(t, p.keys, p.versions, p.clocks, call.count, p.values);
        end(t, s.writer);
        status = finished.status, count = finished.count;
    }

    void ask() {
        const auto* slots = read<std::uint32_t>(call.count);
        const Ledger& l = node()->ledger;
        for (std::size_t i = 0; i < call.count; ++i)
            if (slots[i] >= l.room || !tell(l, slots[i])) return void(status = Status::full);
    }

    void lock() {
        const auto* at = read<std::uint32_t>(2);  // line, ticket
        const auto* lease = read<std::uint64_t>(1);
        Lock& line = slab().locks[at[0] % lock_lines];
        const std::uint32_t ticket = call.op ? at[1] : take_ticket(line);
        status = turn(line, ticket, call.epoch, s.now_ns(), *lease);
        if (auto* mine = write<std::uint32_t>(1)) *mine = ticket;
        const Ledger& l = node()->ledger;
        if (status != Status::ok || at[0] >= l.room || l.rank(at[0]) == s.rank) return;
        release(line, ticket);  // its slot has moved: the next in turn need not wait for the sender to find out
        status = Status::moved;
        if (!tell(l, at[0])) status = Status::broken;
    }

    void clock() {  // the clock, and how many rows there is room for
        const Head& h = *slab().head;
        auto* at = write<std::uint32_t>(2);
        if (!at) return void(status = Status::full);
        const std::uint64_t most = h.buckets / 8 * 7, taken = h.used.load(), free = taken < most ? most - taken : 0;
        at[0] = h.clock.load(), at[1] = static_cast<std::uint32_t>(free < 0xffffffffu ? free : 0xffffffffu);
    }

    void promise() {
        s.promised_count = 0;
        if (call.size > s.promised_room) return void(status = Status::full);
        std::memcpy(s.promised, body, call.size);
        s.promised_crc = s.check->crc32c(s.promised, call.size, 0);
        s.promised_count = call.count;
    }

    void flip_slots() {  // count 0: what was promised, if it has the crc that the body names
        const Ledger& l = node()->ledger;
        bool taken = false;
        if (call.count) taken = flip(l, body, call.count);
        else if (s.promised_count && *read<std::uint32_t>(1) == s.promised_crc) taken = flip(l, s.promised, s.promised_count);
        status = taken ? Status::ok : Status::conflict;
    }

    void unlock() {
        const auto* at = read<std::uint32_t>(2);
        status = release(slab().locks[at[0] % lock_lines], at[1]);
    }

    void recent() {  // count 0 asks for what this server has carried out of late; else it is told what another has
        if (call.count) {
            for (std::size_t i = 0; i < call.count; ++i) {
                const auto* id = read<std::uint64_t>(1);
                const auto* client = read<Client>(1);
                if (*id < s.ranks) merge(s.clients[*id], *client);
            }
            return;
        }
        for (std::size_t id = 0; id < s.ranks; ++id) {
            bool any = s.clients[id].acked != 0;
            for (const std::uint64_t word : s.clients[id].done) any = any || word;
            if (!any) continue;
            auto* at = write<std::uint64_t>(1);
            auto* to = at ? write<Client>(1) : nullptr;
            if (!to) return void(status = Status::full);
            *at = id, *to = s.clients[id], ++count;
        }
    }

    void drop_slots() {  // body: a byte a slot
        const Ledger& l = node()->ledger;
        const auto* wanted = read<std::uint8_t>(call.count);
        const auto narrow = l.map16();
        const auto wide = l.map32();
        count = drop(slab(), l.narrow ? &narrow : nullptr, l.narrow ? nullptr : &wide, wanted, ~0u);
    }
};

// Bytes the body must have for its kind and count; ~0 where the kind is unknown.
std::size_t body_bytes(const Server& s, const Call& c) {
    const auto n = static_cast<std::size_t>(c.count);
    if (static_cast<Kind>(c.kind) == Kind::ping) return c.size;
    const Node* node = c.table < most_tables ? s.nodes[c.table] : nullptr;
    if (!node) return ~std::size_t(0);
    const std::size_t width = node->slabs[s.mine[c.table]].width;
    switch (static_cast<Kind>(c.kind)) {
        case Kind::get: return 8 * n;
        case Kind::apply: {
            const auto op = static_cast<Op>(c.op);
            const std::size_t m = op < Op::merge || (op == Op::merge && node->merger.run) ? sent(op, width) : 0;
            return m ? (8 + 4 * m) * n : ~std::size_t(0);
        }
        case Kind::commit: return (12 + 4 * width) * n;
        case Kind::stage: return (16 + 4 * width) * n;
        case Kind::flip: return n ? node->ledger.change_bytes() * n : 4;
        case Kind::ledger: case Kind::promise: return node->ledger.change_bytes() * n;
        case Kind::clock: return 0;
        case Kind::pack: return n && n <= most_rows ? c.size : ~std::size_t(0);  // it says itself whether it is whole
        case Kind::ask: return 4 * n;
        case Kind::lock: case Kind::release: return 16;
        case Kind::recent: return (8 + sizeof(Client)) * n;
        case Kind::drop: return n == node->ledger.room ? n : ~std::size_t(0);
        default: return ~std::size_t(0);
    }
}

}  // namespace

std::size_t handle(Server& s, const std::uint8_t* request, std::size_t size, std::uint8_t* reply, std::size_t room) {
    Call call;
    if (size < sizeof call || room < sizeof call) return ++s.refused, 0;
    std::memcpy(&call, request, sizeof call);
    if (call.magic != call_magic || call.size != size - sizeof call || call.client >= s.ranks ||
        crc_of(*s.check, request, size) != call.crc || body_bytes(s, call) != call.size)
        return ++s.refused, 0;
    Turn t{s, call, request + sizeof call, reply, reply + sizeof call, room - sizeof call};
    switch (static_cast<Kind>(call.kind)) {
        case Kind::ping:
            if (auto* at = t.write<std::uint8_t>(call.size)) std::memcpy(at, t.body, call.size);
            break;
        case Kind::get: t.get(); break;
        case Kind::apply: t.apply_items(); break;
        case Kind::commit: t.commit_rows(); break;
        case Kind::stage: t.stage_rows(); break;
        case Kind::ledger: t.count = learn(t.node()->ledger, t.body, call.count); break;
        case Kind::flip: t.flip_slots(); break;
        case Kind::promise: t.promise(); break;
        case Kind::ask: t.ask(); break;
        case Kind::lock: t.lock(); break;
        case Kind::release: t.unlock(); break;
        case Kind::recent: t.recent(); break;
        case Kind::drop: t.drop_slots(); break;
        case Kind::clock: t.clock(); break;
        case Kind::pack: t.pack_rows(); break;
    }
    ++s.served;
    call.status = static_cast<std::uint32_t>(t.status), call.count = static_cast<std::uint32_t>(t.count), call.size = static_cast<std::uint32_t>(t.bytes);
    call.client = static_cast<std::uint32_t>(s.rank);
    std::memcpy(reply, &call, sizeof call);
    seal(*s.check, reply, sizeof call + t.bytes);
    return sizeof call + t.bytes;
}

}  // namespace engine::serve
