/* open, publish, learn, close, a thousand times: prints memory (KiB), descriptors and threads after 100 and at the end. */
#include <dirent.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

static long status(const char *name) {
    char line[256];
    long value = -1;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, name, strlen(name))) value = atol(line + strlen(name));
    if (file) fclose(file);
    return value;
}

static int descriptors(void) {
    int count = 0;
    DIR *folder = opendir("/proc/self/fd");
    while (folder && readdir(folder)) count++;
    if (folder) closedir(folder);
    return count;
}

int main(int argc, char **argv) {
    int level, rank;
    const int rounds = argc > 1 ? atoi(argv[1]) : 1000;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    static float x[16][4], y[16];
    const int64_t rows[] = {16, 4}, n = 16;
    for (int round = 1; round <= rounds; round++) {
        engine_t *e;
        const char *toml = round % 2 ? "loop.threads = 1\n" : "loop.threads = 1\nembed.asynchronous = true\n";
        int code = engine_open(ENGINE_COMM(MPI_COMM_WORLD), toml, &e);
        if (!code) code = engine_publish(e, "x", x, 2, rows, NULL, ENGINE_FLOAT32, ENGINE_CPU);
        if (!code) code = engine_publish(e, "y", y, 1, &n, NULL, ENGINE_FLOAT32, ENGINE_CPU);
        if (!code) code = engine_learn(e, "x", "y");
        if (!code) code = engine_close(e);
        if (code) {
            fprintf(stderr, "round %d: %d %s\n", round, code, engine_error(NULL));
            MPI_Abort(MPI_COMM_WORLD, 1);
        }
        if (!rank && (round == rounds / 4 || round == rounds / 2 || round == rounds))
            printf("%d %ld %d %ld\n", round, status("VmRSS:"), descriptors(), status("Threads:"));
    }
    MPI_Finalize();
    return 0;
}
