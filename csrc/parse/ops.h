// Text to arrays: libsvm and CSV rows of a buffer of whole lines. Bad rows are recorded and left out, never guessed.
#pragma once
#include "kernel.h"
#include "text/ops.h"

namespace engine::parse {

enum Code : std::int64_t { few = 1, many = 2, number = 3, finite = 4, label = 5, quote = 6, key = 7 };
enum Kind : std::uint8_t { skip = 0, numeric = 1, categorical = 2, target = 3, target_text = 4, words = 5 };
enum Mode : int { exact = 0, masked = 1, hashed = 2 };

// Where the rows go. `bad` holds (byte offset of the row, column, code) for the first `bad_room` bad rows;
// `tally[code]` counts all of them. Room: a row a line for y, at, indptr; an entry a colon (libsvm) or column for keys.
struct Out {
    float* y;
    std::int64_t* at;      // byte offset of each row kept
    float* x;              // dense (rows, width) or null
    std::int64_t* indptr;  // sparse, or null
    std::uint32_t* keys;
    float* values;
    std::int64_t* bad;
    std::int64_t bad_room;
    std::int64_t* tally;   // 8 counters
};

struct Csv {
    std::uint8_t delimiter;      // 0: two columns, the first up to a blank or tab, the second the rest of the line
    bool lines;                  // false: a quoted field may hold line ends
    const std::uint8_t* kinds;   // Kind of each column
    const std::uint64_t* seeds;  // hash seed of each column
    std::int64_t columns, width;
    std::uint32_t mask;
    const std::uint8_t* labels;  // text of the labels, end to end
    const std::int64_t* ends;    // end of each label in `labels`
    std::int64_t label_count;
    const engine::text::Grams* grams;  // of columns of text
    engine::text::Seen* seen;
};

struct Result { std::int64_t rows, nnz, ones; };

struct Ops {
    std::int64_t (*count)(const std::uint8_t* data, std::size_t size, std::uint8_t byte);
    Result (*libsvm)(const std::uint8_t* data, std::size_t size, std::int64_t first, int mode, std::uint32_t mask, const Out& out);
    Result (*csv)(const std::uint8_t* data, std::size_t size, const Csv& plan, const Out& out);
};

const Ops& ops(Isa level);

inline constexpr std::int64_t no_time = -9223372036854775807 - 1;  // NumPy's NaT

// The field `column` of the rows that begin at `at`, of whole lines. Times in microseconds since 1970 (UTC): numbers times `scale`,
// or ISO 8601; `no_time` where there is neither. Ids as hashes of their text, 0 where there is none. They return how many had none.
std::int64_t times(const std::uint8_t* data, std::size_t size, const std::int64_t* at, std::int64_t rows, const Csv& plan,
                   std::int64_t column, double scale, std::int64_t* out);
std::int64_t names(const std::uint8_t* data, std::size_t size, const std::int64_t* at, std::int64_t rows, const Csv& plan,
                   std::int64_t column, std::uint64_t* out);

}  // namespace engine::parse
