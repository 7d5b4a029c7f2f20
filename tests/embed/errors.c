/* Every mistake a host can make, on two ranks: a code, a message with the fix, and a host that goes on. */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

static int rank, failed;

/* The call gave `want`, and its message has `words`. */
static void expect(const char *what, engine_t *e, int got, int want, const char *words) {
    const char *said = engine_error(e);
    if (getenv("SHOW") && want) fprintf(stderr, "%s: %d %s\n", what, got, said);
    if (got != want || (want && (!strstr(said, words)))) {
        fprintf(stderr, "rank %d: %s: expected %d with '%s', got %d: %s\n", rank, what, want, words, got, said);
        failed++;
    }
}

static float x[32][3], y[32], z[32][5], score[32];
static const int64_t rows[] = {32, 3}, wide[] = {32, 5}, n = 32, few = 7;
static const char *toml = "[loop]\nthreads = 1\nstall_timeout = 200\n[exchange]\nevery = 8\n";

static void publish(engine_t *e) {
    expect("publish x", e, engine_publish(e, "x", x, 2, rows, NULL, ENGINE_FLOAT32, ENGINE_CPU), ENGINE_OK, "");
    expect("publish y", e, engine_publish(e, "y", y, 1, &n, NULL, ENGINE_FLOAT32, ENGINE_CPU), ENGINE_OK, "");
    expect("publish score", e, engine_publish(e, "score", score, 1, &n, NULL, ENGINE_FLOAT32, ENGINE_CPU), ENGINE_OK, "");
}

static void learning(void) {
    engine_t *e = NULL;
    expect("open", NULL, engine_open(ENGINE_COMM(MPI_COMM_WORLD), toml, &e), ENGINE_OK, "");
    expect("learn before publish", e, engine_learn(e, "x", "y"), ENGINE_USAGE, "publish it first");
    expect("predict before learn", e, engine_predict(e, "x", "score"), ENGINE_USAGE, "learn first");
    expect("checkpoint before learn", e, engine_checkpoint(e, "/tmp"), ENGINE_USAGE, "learn first");
    expect("null name", e, engine_publish(e, NULL, x, 2, rows, NULL, ENGINE_FLOAT32, ENGINE_CPU), ENGINE_USAGE, "NULL");
    expect("null pointer", e, engine_publish(e, "x", NULL, 2, rows, NULL, ENGINE_FLOAT32, ENGINE_CPU), ENGINE_USAGE, "pointer is NULL");
    expect("wrong dtype", e, engine_publish(e, "x", x, 2, rows, NULL, 99, ENGINE_CPU), ENGINE_DATA, "expected a dtype");
    expect("too many axes", e, engine_publish(e, "x", x, 9, rows, NULL, ENGINE_FLOAT32, ENGINE_CPU), ENGINE_USAGE, "0 to 8 axes");
    expect("negative axes", e, engine_publish(e, "x", x, -1, rows, NULL, ENGINE_FLOAT32, ENGINE_CPU), ENGINE_USAGE, "0 to 8 axes");
    expect("null shape", e, engine_publish(e, "x", x, 2, NULL, NULL, ENGINE_FLOAT32, ENGINE_CPU), ENGINE_USAGE, "shape");
    const int64_t minus[] = {-1, 3};
    expect("negative size", e, engine_publish(e, "x", x, 2, minus, NULL, ENGINE_FLOAT32, ENGINE_CPU), ENGINE_DATA, "sizes of 0 or more");
    const int64_t elements[] = {3, 1};
    expect("strides in elements", e, engine_publish(e, "x", x, 2, rows, elements, ENGINE_FLOAT32, ENGINE_CPU), ENGINE_DATA, "in bytes");
    expect("negative device", e, engine_publish(e, "x", x, 2, rows, NULL, ENGINE_FLOAT32, -3), ENGINE_USAGE, "ENGINE_CPU");
    if (rank == 0) publish(e); /* rank 1 has published nothing: both hear of it, none waits */
    expect("one rank without rows", e, engine_learn(e, "x", "y"), ENGINE_USAGE, "publish it first");
    publish(e);
    expect("null learn", e, engine_learn(e, NULL, "y"), ENGINE_USAGE, "NULL");
    expect("learn", e, engine_learn(e, "x", "y"), ENGINE_OK, "");
    expect("publish z", e, engine_publish(e, "z", z, 2, wide, NULL, ENGINE_FLOAT32, ENGINE_CPU), ENGINE_OK, "");
    expect("shape change", e, engine_learn(e, rank ? "z" : "x", "y"), ENGINE_DATA, "(32, 3)");
    expect("publish few", e, engine_publish(e, "few", y, 1, &few, NULL, ENGINE_FLOAT32, ENGINE_CPU), ENGINE_OK, "");
    expect("rows differ", e, engine_learn(e, "x", rank ? "y" : "few"), ENGINE_DATA, "of the shape of");
    expect("predict to few", e, engine_predict(e, "x", "few"), ENGINE_DATA, "of the shape of");
    expect("predict null", e, engine_predict(e, "x", NULL), ENGINE_USAGE, "NULL");
    expect("predict unknown", e, engine_predict(e, "x", "nothing"), ENGINE_USAGE, "publish it first");
    expect("predict wide", e, engine_predict(e, "z", "score"), ENGINE_DATA, "(32, 3)");
    expect("cuda without one", e, engine_publish(e, "gpu", x, 2, rows, NULL, ENGINE_FLOAT32, ENGINE_CUDA), ENGINE_OK, "");
    if (getenv("NO_CUDA")) expect("learn from cuda", e, engine_learn(e, "gpu", "y"), ENGINE_DATA, "CUDA");
    expect("checkpoint nowhere", e, engine_checkpoint(e, NULL), ENGINE_USAGE, "directory");
    expect("checkpoint forbidden", e, engine_checkpoint(e, "/proc/no/such"), ENGINE_IO, "");
    expect("test null", e, engine_test(e, NULL), ENGINE_USAGE, "NULL");
    size_t small = 3;
    char text[3];
    expect("info small", e, engine_info(e, text, &small), ENGINE_USAGE, "too small");
    expect("info size", e, small > 3 ? ENGINE_OK : ENGINE_FAILED, ENGINE_OK, "");
    expect("learn still", e, engine_learn(e, "x", "y"), ENGINE_OK, "");
    expect("predict still", e, engine_predict(e, "x", "score"), ENGINE_OK, "");
    expect("close", NULL, engine_close(e), ENGINE_OK, "");
    expect("after close", e, engine_learn(e, "x", "y"), ENGINE_USAGE, "closed");
    expect("close again", e, engine_close(e), ENGINE_USAGE, "closed");
}

static void opening(void) {
    engine_t *e = NULL;
    expect("null engine", NULL, engine_learn(NULL, "x", "y"), ENGINE_USAGE, "engine is NULL");
    expect("close null", NULL, engine_close(NULL), ENGINE_OK, "");
    expect("open to null", NULL, engine_open(ENGINE_COMM(MPI_COMM_WORLD), toml, NULL), ENGINE_USAGE, "NULL");
    expect("null communicator", NULL, engine_open(ENGINE_COMM(MPI_COMM_NULL), toml, &e), ENGINE_USAGE, "communicator");
    expect("no communicator", NULL, engine_open(123456789, toml, &e), ENGINE_USAGE, "communicator");
    expect("unknown key", NULL, engine_open(ENGINE_COMM(MPI_COMM_WORLD), "[model]\nlerner = 'nag'\n", &e), ENGINE_USAGE, "did you mean");
    expect("no toml", NULL, engine_open(ENGINE_COMM(MPI_COMM_WORLD), "[model", &e), ENGINE_USAGE, "cannot read the configuration");
    expect("no file", NULL, engine_open(ENGINE_COMM(MPI_COMM_WORLD), "absent.toml", &e), ENGINE_USAGE, "no such configuration");
    expect("one rank wrong", NULL, engine_open(ENGINE_COMM(MPI_COMM_WORLD), rank ? "[model]\nrate = 'x'\n" : toml, &e), ENGINE_USAGE, "model.rate");
    expect("ranks differ", NULL, engine_open(ENGINE_COMM(MPI_COMM_WORLD), rank ? "" : toml, &e), ENGINE_AGAIN, "differs between ranks");
    expect("left null", NULL, e ? ENGINE_FAILED : ENGINE_OK, ENGINE_OK, "");
}

/* Numbers that float32 cannot hold make a bad model, not a line in the host's output. */
static void overflowing(const char *settings) {
    static double huge[32][3];
    for (int i = 0; i < 32; i++) huge[i][i % 3] = i % 2 ? 1e300 : -3e38, y[i] = (float)i;
    engine_t *e = NULL;
    expect("open for huge", NULL, engine_open(ENGINE_COMM(MPI_COMM_WORLD), settings, &e), ENGINE_OK, "");
    publish(e);
    expect("publish huge", e, engine_publish(e, "huge", huge, 2, rows, NULL, ENGINE_FLOAT64, ENGINE_CPU), ENGINE_OK, "");
    for (int step = 0; step < 3; step++) expect("learn huge", e, engine_learn(e, "huge", "y"), ENGINE_OK, "");
    expect("wait for huge", e, engine_wait(e), ENGINE_OK, "");
    expect("predict huge", e, engine_predict(e, "huge", "score"), ENGINE_OK, "");
    expect("close huge", NULL, engine_close(e), ENGINE_OK, "");
}

/* Two engines over parts of the world, one over all, one alone: they do not disturb each other. */
static void many(void) {
    MPI_Comm part;
    MPI_Comm_split(MPI_COMM_WORLD, rank, 0, &part);
    engine_t *e[3] = {NULL};
    expect("open part", NULL, engine_open(ENGINE_COMM(part), toml, &e[0]), ENGINE_OK, "");
    MPI_Comm_free(&part); /* it was duplicated */
    expect("open world", NULL, engine_open(ENGINE_COMM(MPI_COMM_WORLD), toml, &e[1]), ENGINE_OK, "");
    expect("open alone", NULL, engine_open(ENGINE_ALONE, toml, &e[2]), ENGINE_OK, "");
    for (int i = 0; i < 32; i++)
        for (int j = 0; j < 3; j++) x[i][j] = (float)(i * 7 % 11 - 5 + j), y[i] = x[i][0] * (float)(rank + 1);
    for (int i = 0; i < 3; i++) publish(e[i]);
    for (int step = 0; step < 3; step++)
        for (int i = 0; i < 3; i++)
            if (i || rank) expect("learn of many", e[i], engine_learn(e[i], "x", "y"), ENGINE_OK, ""); /* part: rank 1 alone */
    for (int i = 0; i < 3; i++) expect("close of many", NULL, engine_close(e[i]), ENGINE_OK, "");
}

int main(int argc, char **argv) {
    int level;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    expect("abi", NULL, engine_abi() == ENGINE_ABI ? ENGINE_OK : ENGINE_FAILED, ENGINE_OK, "");
    opening();
    learning();
    overflowing(toml);
    overflowing("loop.threads = 1\nembed.asynchronous = true\n");
    many();
    MPI_Errhandler handler;
    MPI_Comm_get_errhandler(MPI_COMM_WORLD, &handler);
    expect("the host's error handler", NULL, handler == MPI_ERRORS_ARE_FATAL ? ENGINE_OK : ENGINE_FAILED, ENGINE_OK, "");
    /* The host ends MPI with engines open, one of them learning in a thread. */
    engine_t *e[2];
    const char *later = "[loop]\nthreads = 1\n[embed]\nasynchronous = true\n";
    expect("open before the end", NULL, engine_open(ENGINE_COMM(MPI_COMM_WORLD), toml, &e[0]), ENGINE_OK, "");
    expect("open a thread", NULL, engine_open(ENGINE_COMM(MPI_COMM_WORLD), later, &e[1]), ENGINE_OK, "");
    for (int i = 0; i < 2; i++) {
        publish(e[i]);
        expect("learn before the end", e[i], engine_learn(e[i], "x", "y"), ENGINE_OK, "");
    }
    MPI_Finalize();
    for (int i = 0; i < 2; i++) {
        expect("learn after the end", e[i], engine_learn(e[i], "x", "y"), ENGINE_AGAIN, "before MPI_Finalize");
        expect("close after the end", NULL, engine_close(e[i]), ENGINE_OK, "");
    }
    expect("open after the end", NULL, engine_open(0, toml, &e[0]), ENGINE_USAGE, "finalised");
    if (!failed) printf("rank %d: host alive\n", rank);
    return failed != 0;
}
