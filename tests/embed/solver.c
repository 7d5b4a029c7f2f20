/* A solver that learns y = 1 x0 + 2 x1 + 3 x2 + 4 x3 on every rank, and prints what it found. Same numbers under any MPI.
   Arguments: the settings; the steps (100); whether it leaves a checkpoint in the folder of the settings. */
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

enum { N = 64, W = 4 };
static double x[N][W], y[N], q[W][W], out[W];
static uint64_t state;

static double uniform(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(state >> 11) / 9007199254740992.0 - 0.5;
}

static int must(engine_t *e, int code, const char *what) {
    if (code) {
        fprintf(stderr, "%s: %d %s\n", what, code, engine_error(e));
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    return code;
}

int main(int argc, char **argv) {
    int level, rank, size;
    const int steps = argc > 2 ? atoi(argv[2]) : 100;
    const char *toml = argc > 1 ? argv[1] : "[loop]\nthreads = 1\n[exchange]\nevery = 16\n[model]\nlearner = 'nag'\n";
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    engine_t *e;
    must(NULL, engine_open(ENGINE_COMM(MPI_COMM_WORLD), toml, &e), "open");
    const int64_t rows[] = {N, W}, query[] = {W, W}, n = N, w = W;
    state = (uint64_t)rank + 1;
    for (int i = 0; i < W; i++) q[i][i] = 0.5;
    must(e, engine_publish(e, "q", q, 2, query, NULL, ENGINE_FLOAT64, ENGINE_CPU), "publish q");
    must(e, engine_publish(e, "out", out, 1, &w, NULL, ENGINE_FLOAT64, ENGINE_CPU), "publish out");
    for (int step = 0; step < steps; step++) {
        for (int i = 0; i < N; i++) {
            y[i] = 0;
            for (int j = 0; j < W; j++) y[i] += (j + 1) * (x[i][j] = uniform());
        }
        must(e, engine_publish(e, "x", x, 2, rows, NULL, ENGINE_FLOAT64, ENGINE_CPU), "publish x");
        must(e, engine_publish(e, "y", y, 1, &n, NULL, ENGINE_FLOAT64, ENGINE_CPU), "publish y");
        must(e, engine_learn(e, "x", "y"), "learn");
    }
    must(e, engine_wait(e), "wait");
    if (argc > 3) must(e, engine_checkpoint(e, NULL), "checkpoint");
    must(e, engine_predict(e, "q", "out"), "predict");
    char text[8192];
    size_t room = sizeof text;
    must(e, engine_info(e, text, &room), "info");
    if (rank == 0) printf("ranks %d weights %.4f %.4f %.4f %.4f\n%s\n", size, 2 * out[0], 2 * out[1], 2 * out[2], 2 * out[3], text);
    must(NULL, engine_close(e), "close");
    MPI_Finalize();
    return 0;
}
