// The owner's side of a remote access: one request frame in, one reply frame out. docs/format.md has the byte table.
#pragma once
#include "serve/pack.h"
#include "table/node.h"

namespace engine::serve {

enum class Kind : std::uint8_t { ping = 0, get = 1, apply = 2, commit = 3, stage = 4, ledger = 5, flip = 6, ask = 7, lock = 8, release = 9, recent = 10, drop = 11, clock = 12, promise = 13, pack = 14 };

struct Call {
    std::uint32_t magic;
    std::uint8_t kind, op;
    std::uint16_t table;
    std::uint32_t client, count;
    std::uint64_t seq, acked;  // acked: every earlier request of this client is done and will not be sent again
    float rate, more;
    std::uint32_t status, extra, size, epoch;  // size: bytes after the head; epoch: of the membership
    std::uint32_t crc, zero;                   // crc of head (with crc 0) and body
};
static_assert(sizeof(Call) == 64);
constexpr std::uint32_t call_magic = 0x4c414345;  // ECAL

constexpr std::size_t window = 1024, most_tables = 16, told = 64;
struct Client { std::uint64_t acked, done[window / 64]; };  // which requests after `acked` were carried out

struct Server {
    table::Node* nodes[most_tables];
    std::uint16_t mine[most_tables];  // place of this rank's slab in the node
    const float* init[most_tables];
    std::size_t writer;
    std::int32_t rank;
    Client* clients;
    std::size_t ranks;
    std::uint64_t served, repeated, refused;  // requests carried out, recognised as done before, damaged or foreign
    std::uint8_t* promised;  // changes told before they are to be taken, so that a flip is short; room for promised_room bytes
    std::size_t promised_room, promised_count;
    std::uint32_t promised_crc;
    std::uint64_t (*now_ns)();
    const check::Ops* check;
    const delta::Tools* tools;
    Packing* packing;
};

// Bytes of the reply, at most `room`; a frame that is not one gets none (0). Called by one thread at a time.
std::size_t handle(Server& server, const std::uint8_t* request, std::size_t size, std::uint8_t* reply, std::size_t room);
std::uint32_t seal(const check::Ops& check, std::uint8_t* frame, std::size_t size);
// The crc that head and body of a frame should have.
std::uint32_t crc_of(const check::Ops& check, const std::uint8_t* frame, std::size_t size);
// True the first time; false where the request was carried out before.
bool fresh(Client& client, std::uint64_t seq, std::uint64_t acked);
void merge(Client& client, const Client& other);

}  // namespace engine::serve
