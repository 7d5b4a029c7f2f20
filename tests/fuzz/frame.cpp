// Coverage-guided fuzzing of everything that decodes untrusted bytes: built by tests/fuzz/run (clang's libFuzzer), or with
// -DSTANDALONE by any compiler, when it replays the files it is given. The first byte picks the decoder, the rest is its input.
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <vector>

#include "delta/ops.h"
#include "delta/series.h"

using namespace engine;
using entropy::u8;

namespace {

constexpr std::size_t n = 70000;

struct Room {
    std::vector<u8> base = std::vector<u8>(n * 8), out = base;
    std::unique_ptr<delta::Work> work{new delta::Work};
    std::unique_ptr<delta::SeriesWork> series{new delta::SeriesWork};
    std::vector<entropy::u32> index = std::vector<entropy::u32>(n), value = index;
    Room() {
        for (std::size_t i = 0; i < base.size(); ++i) base[i] = static_cast<u8>(i * 197 >> 3);
    }
};

void chunk(Room& room, Isa isa, u8 mixed, const u8* in, std::size_t size) {
    if (size < 4) return;
    delta::Job job{};
    job.kind = static_cast<delta::Kind>(mixed & 7);
    job.base = room.base.data();
    job.previous = job.kind == delta::Kind::single ? room.base.data() : nullptr;
    job.beta = 0.5f;
    job.bound = job.kind >= delta::Kind::single ? 1e-3 : 0;
    job.chunk = delta::chunk_limit;
    job.items = 1 + in[0] * 256 + in[1];
    delta::Row row{0, static_cast<entropy::u32>(size - 4), static_cast<entropy::u32>(job.items), in[2] | (in[3] & 7u) << 8, 0, 0};
    std::vector<u8> payload((size - 4 + 63) / 64 * 64);  // exactly what the table promises: a read past it is seen
    std::memcpy(payload.data(), in + 4, size - 4);
    const delta::Tools tools{delta::ops(isa), entropy::ops(isa), check::ops(isa)};
    row.crc = tools.check.crc32c(payload.data(), payload.size(), 0);
    delta::decode(tools, job, 0, job.items, row, payload.data(), room.out.data(), *room.work);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const u8* data, std::size_t size) {
    static Room room;
    if (size < 4) return 0;
    const u8 which = data[0];
    const Isa isa = isa_runs(static_cast<Isa>(which >> 6 & 3)) ? static_cast<Isa>(which >> 6 & 3) : Isa::base;
    const auto& ops = entropy::ops(isa);
    const std::vector<u8> in(data + 4, data + size);  // of its exact size, for the sanitizer
    const std::size_t count = 1 + data[1] * 256 + data[2];
    std::size_t used;
    switch (which & 7) {
        case 0: chunk(room, isa, data[3], in.data(), in.size()); break;
        case 1: entropy::decode_all(ops, in.data(), in.size(), data[3] & 1 ? room.base.data() : nullptr, room.value.data(), count); break;
        case 2: entropy::index_decode(ops, in.data(), in.size(), room.index.data(), std::min(count, n), n, used, room.work->code); break;
        case 3: entropy::huffman_decode(in.data(), in.size(), room.out.data(), count); break;
        case 4: entropy::range_decode(in.data(), in.size(), room.out.data(), count); break;
        default: {
            const delta::Tools tools{delta::ops(isa), ops, check::ops(isa)};
            delta::series_decode(tools, delta::series(isa), static_cast<delta::Kind>(data[3] & 7), in.data(), in.size(), room.out.data(), count, *room.series);
        }
    }
    return 0;
}

#ifdef STANDALONE
int main(int count, char** names) {
    for (int i = 1; i < count; ++i) {
        std::ifstream file(names[i], std::ios::binary);
        const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), {});
        LLVMFuzzerTestOneInput(reinterpret_cast<const u8*>(bytes.data()), bytes.size());
    }
    std::printf("%d inputs\n", count - 1);
}
#endif
