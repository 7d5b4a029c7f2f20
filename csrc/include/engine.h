/* engine.h: learn in situ from C, C++ or Fortran. C99; needs neither mpi.h nor Python.h to compile, and libengine.so
 * links neither. Build:  cc solver.c $(engine embed --cflags --libs)      Documentation: docs/embed.md
 *
 * Every call returns ENGINE_OK or a code; engine_error says what was expected, found, and how to mend it. The host is
 * never ended because of us. One engine is used by one thread at a time; a process may hold many engines.  Calls marked
 * collective are made by every rank of the communicator, in the same order.
 */
#ifndef ENGINE_H
#define ENGINE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ENGINE_ABI 1
#define ENGINE_API __attribute__((visibility("default")))

typedef struct engine_handle engine_t;

/* Codes: those of sysexits, as the command line has them. */
enum {
    ENGINE_OK = 0,
    ENGINE_USAGE = 64,       /* an argument, a name or a setting is wrong */
    ENGINE_DATA = 65,        /* an array, a row or a frame is wrong */
    ENGINE_UNAVAILABLE = 69, /* Python, a package or a device is not here */
    ENGINE_FAILED = 70,      /* a fault of the engine */
    ENGINE_IO = 74,          /* a file or directory */
    ENGINE_AGAIN = 75        /* another rank is absent, late or different: go on from a checkpoint */
};

/* dtypes, numbered as in frames (docs/format.md) */
enum {
    ENGINE_INT8 = 1, ENGINE_UINT8 = 2, ENGINE_INT16 = 3, ENGINE_UINT16 = 4, ENGINE_INT32 = 5, ENGINE_UINT32 = 6,
    ENGINE_INT64 = 7, ENGINE_UINT64 = 8, ENGINE_FLOAT32 = 10, ENGINE_FLOAT64 = 11
};

/* devices: main memory, or memory of a CUDA device: ENGINE_CUDA + its number */
enum { ENGINE_CPU = 0, ENGINE_CUDA = 1 };

#define ENGINE_MAX_DIMS 8

/* Open an engine over `comm` (collective): ENGINE_COMM(c) of an MPI communicator, or ENGINE_ALONE for this process alone.
 * The communicator is duplicated; it may be freed afterwards. `toml`: settings as text, the name of a file that ends in
 * .toml, or NULL; ENGINE_SECTION_KEY variables override both. On failure *engine is NULL and engine_error(NULL) tells. */
ENGINE_API int engine_open(int comm, const char *toml, engine_t **engine);
#define ENGINE_ALONE (-2147483647 - 1)

/* Name an array. It is not copied: it must stay where it is until it is named anew or the engine is closed.
 * `strides` in bytes, NULL = C order; they may overlap (windows of a field) or be negative. Naming the same array again costs
 * nothing. */
ENGINE_API int engine_publish(engine_t *engine, const char *name, const void *data, int ndim, const int64_t *shape,
                              const int64_t *strides, int dtype, int device);

/* Learn rows (collective): y has the shape of the rows, x that shape and the features behind it: x (n, w) and y (n), or windows
 * x (ny, nx, 3, 3) of a field and y (ny, nx). Each rank brings its own rows, perhaps none. With embed.asynchronous the arrays
 * are copied and a thread learns and exchanges: they may be overwritten at once. */
ENGINE_API int engine_learn(engine_t *engine, const char *x, const char *y);

/* Predict rows x into the published array `out`, which has the shape of the rows (local). */
ENGINE_API int engine_predict(engine_t *engine, const char *x, const char *out);

/* Whether all that was handed to learn has been learned on this rank; wait until it is. They return the thread's error. */
ENGINE_API int engine_test(engine_t *engine, int *done);
ENGINE_API int engine_wait(engine_t *engine);

/* Write a checkpoint (collective); `directory` NULL = checkpoint.dir. */
ENGINE_API int engine_checkpoint(engine_t *engine, const char *directory);

/* What is known here, as JSON (local). *size: room at `json` on entry, bytes needed with the final zero on return. */
ENGINE_API int engine_info(engine_t *engine, char *json, size_t *size);

/* Text of the last error of this engine, or of this thread where `engine` is NULL; valid until the next call. */
ENGINE_API const char *engine_error(const engine_t *engine);

/* Learn what is queued, free the duplicates of the communicator and the engine (collective). Closing NULL does nothing. */
ENGINE_API int engine_close(engine_t *engine);

/* ENGINE_ABI of the library. */
ENGINE_API int engine_abi(void);

/* Codecs alone: no engine, no Python. Frames are those of the Python package, byte for byte (docs/format.md); buffers lie at a
 * multiple of 8 bytes; calls may be made from any thread; engine_error(NULL) tells of an error. */
typedef struct {
    uint32_t block;        /* elements behind one scale, a multiple of 64 up to 4096; 0 = the codec's own */
    double density;        /* of topk: share of the elements that is sent; 0 = 0.01 */
    uint64_t seed, step, stream; /* of the stochastic modes: what is rounded up is drawn from these; stream = the rank */
} engine_codec_t;

/* Encode n values g with error feedback: x = g + residual is sent as far as the codec can, the rest is left in `residual`.
 * `codec`: sign, ternary, int2, int4, int8, int2s, int4s, int8s (..s: stochastic), bf16, fp16, fp8, topk (values bf16), topk.fp16,
 * topk.fp8, topk.f32. *size: room at `out` on entry (engine_encode_bound), bytes of the frame on return. */
ENGINE_API int engine_encode(const char *codec, const float *g, float *residual, size_t n, const engine_codec_t *options, void *out,
                             size_t *size);
ENGINE_API size_t engine_encode_bound(const char *codec, size_t n, const engine_codec_t *options);
/* acc += what the frame holds; nothing is added where it is refused. */
ENGINE_API int engine_decode_add(const void *frame, size_t size, float *acc, size_t n);

typedef struct {
    uint64_t base_version, new_version; /* names of the two versions */
    uint64_t step;
    double bound; /* > 0: float32 and float64 may differ by less than it */
    int fast;     /* bit-packing, at the speed of memory */
    void *result; /* what the receiver will have; needed with a bound, else may be NULL */
} engine_delta_t;

/* The frame that makes `now` of `base` (NULL: of nothing), n elements each. It names both by their hashes. */
ENGINE_API int engine_delta_encode(const void *now, const void *base, size_t n, int dtype, const engine_delta_t *options, void *out,
                                   size_t *size);
ENGINE_API size_t engine_delta_bound(size_t n, int dtype);
/* The new version, to `out`; refused unless `base` has the hash that the frame names, and each chunk gives its result. */
ENGINE_API int engine_delta_apply(const void *base, const void *frame, size_t size, void *out, size_t n, int dtype);
ENGINE_API uint64_t engine_delta_hash(const void *data, size_t bytes);

/* The integer of a communicator, for engine_open. */
#ifdef MPI_VERSION
#if defined(MPI_ABI_VERSION) && MPI_ABI_VERSION > 0
#define ENGINE_COMM(comm) MPI_Comm_toint(comm)
#else
#define ENGINE_COMM(comm) ((int)MPI_Comm_c2f(comm))
#endif
#endif

#ifdef __cplusplus
}
#endif
#endif
