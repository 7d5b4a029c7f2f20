/* Three ranks: two solvers learn together in a thread, of what is newest; the third learns apart of what they send it by MPI. */
#include <math.h>
#include <mpi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

enum { N = 64, W = 3, STEPS = 100 };
static double rows[N][W + 1], out[N];

static void must(engine_t *e, int code, const char *what) {
    if (code) {
        fprintf(stderr, "%s: %d %s\n", what, code, engine_error(e));
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
}

static void fill(int seed) {
    uint64_t state = (uint64_t)seed * 7919 + 1;
    for (int i = 0; i < N; i++) {
        rows[i][W] = 0;
        for (int j = 0; j < W; j++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            rows[i][j] = (double)(state >> 11) / 9007199254740992.0 - 0.5;
            rows[i][W] += (j + 1) * rows[i][j];
        }
    }
}

static long number(const char *json, const char *name) {
    const char *at = strstr(json, name);
    return at ? atol(at + strlen(name)) : 0;
}

int main(int argc, char **argv) {
    int level, rank;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm part;
    MPI_Comm_split(MPI_COMM_WORLD, rank == 2, rank, &part);
    engine_t *e;
    must(NULL, engine_open(ENGINE_COMM(part), rank == 2 ? argv[1] : argv[2], &e), "open");
    MPI_Comm_free(&part);
    const int64_t shape[] = {N, W}, steps[] = {sizeof rows[0], sizeof rows[0][0]}, n = N;
    must(e, engine_publish(e, "x", rows, 2, shape, steps, ENGINE_FLOAT64, ENGINE_CPU), "publish x");
    must(e, engine_publish(e, "y", &rows[0][W], 1, &n, steps, ENGINE_FLOAT64, ENGINE_CPU), "publish y");
    must(e, engine_publish(e, "out", out, 1, &n, NULL, ENGINE_FLOAT64, ENGINE_CPU), "publish out");
    for (int k = 0; k < STEPS * (rank == 2 ? 2 : 1); k++) {
        if (rank == 2) MPI_Recv(rows, N * (W + 1), MPI_DOUBLE, MPI_ANY_SOURCE, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        else {
            fill(2 * k + rank);
            MPI_Send(rows, N * (W + 1), MPI_DOUBLE, 2, 0, MPI_COMM_WORLD);
        }
        must(e, engine_learn(e, "x", "y"), "learn");
    }
    must(e, engine_wait(e), "wait");
    fill(-1);
    must(e, engine_predict(e, "x", "out"), "predict");
    double worst = 0;
    for (int i = 0; i < N; i++) worst = fmax(worst, fabs(out[i] - rows[i][W]));
    char json[8192];
    size_t room = sizeof json;
    must(e, engine_info(e, json, &room), "info");
    double all[3], mine = out[0];
    long found[2] = {number(json, "\"rows\": "), number(json, "\"dropped\": ")}, told[3][2];
    MPI_Gather(&mine, 1, MPI_DOUBLE, all, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);
    MPI_Gather(found, 2, MPI_LONG, told, 2, MPI_LONG, 0, MPI_COMM_WORLD);
    double far[3];
    MPI_Gather(&worst, 1, MPI_DOUBLE, far, 1, MPI_DOUBLE, 0, MPI_COMM_WORLD);
    if (!rank)
        printf("%d %d %d %ld %ld %.3f\n", all[0] == all[1], told[0][0] == told[1][0],
               told[0][0] == N * (2 * STEPS - told[0][1] - told[1][1]), told[2][0], told[2][1], far[2]);
    must(NULL, engine_close(e), "close");
    MPI_Finalize();
    return 0;
}
