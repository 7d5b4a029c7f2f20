/* Threads of one host, each with engines of its own and the codecs at once: what the thread sanitizer watches. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"

enum { THREADS = 4, ROUNDS = 3, N = 64, W = 9, M = 4096 };
static int failed;
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static engine_t *shared; /* used by one thread at a time, handed on under the gate */

static void must(const char *what, engine_t *e, int got, int want) {
    if (got == want) return;
    pthread_mutex_lock(&gate);
    fprintf(stderr, "%s: expected %d, got %d: %s\n", what, want, got, engine_error(e));
    failed++;
    pthread_mutex_unlock(&gate);
}

static void publish(engine_t *e, double *x, double *y, double *out) {
    const int64_t rows[] = {N, W}, n[] = {N};
    must("publish x", e, engine_publish(e, "x", x, 2, rows, NULL, ENGINE_FLOAT64, ENGINE_CPU), ENGINE_OK);
    must("publish y", e, engine_publish(e, "y", y, 1, n, NULL, ENGINE_FLOAT64, ENGINE_CPU), ENGINE_OK);
    must("publish out", e, engine_publish(e, "out", out, 1, n, NULL, ENGINE_FLOAT64, ENGINE_CPU), ENGINE_OK);
}

static void learning(int me, double *x, double *y, double *out) {
    engine_t *e = NULL;
    const char *toml = me % 2 ? "[loop]\nthreads = 1\n[embed]\nwidth = 9\nasynchronous = true\nfull = 'newest'\n" : "[loop]\nthreads = 1\n";
    must("open", NULL, engine_open(ENGINE_ALONE, toml, &e), ENGINE_OK);
    if (!e) return;
    publish(e, x, y, out);
    must("unknown", e, engine_learn(e, "x", "absent"), ENGINE_USAGE);
    for (int step = 0; step < 8; step++) {
        for (int i = 0; i < N; i++) y[i] = x[i * W] * (me + 1) + step;
        must("learn", e, engine_learn(e, "x", "y"), ENGINE_OK);
        must("predict", e, engine_predict(e, "x", "out"), ENGINE_OK);
        int done;
        must("test", e, engine_test(e, &done), ENGINE_OK);
    }
    must("wait", e, engine_wait(e), ENGINE_OK);
    char text[8192];
    size_t room = sizeof text;
    must("info", e, engine_info(e, text, &room), ENGINE_OK);
    must("close", NULL, engine_close(e), ENGINE_OK);
    must("closed", NULL, engine_learn(e, "x", "y"), ENGINE_USAGE);
    if (!strstr(engine_error(NULL), "closed")) must("the message of this thread", NULL, 1, 0);
}

static void coding(int me) {
    static const char *names[] = {"int8", "topk", "sign", "int4s"};
    float *g = malloc(3 * M * sizeof *g), *left = g + M, *sum = left + M;
    for (int i = 0; i < M; i++) g[i] = (float)((i * 37 + me) % 101 - 50), left[i] = sum[i] = 0;
    size_t size = engine_encode_bound(names[me % 4], M, NULL), bound = engine_delta_bound(M, ENGINE_FLOAT32), room = bound;
    char *frame = malloc(size + 64), *delta = malloc(bound + 64);
    must("encode", NULL, engine_encode(names[me % 4], g, left, M, NULL, frame, &size), ENGINE_OK);
    must("decode", NULL, engine_decode_add(frame, size, sum, M), ENGINE_OK);
    must("damaged", NULL, engine_decode_add(frame, size - 1, sum, M), ENGINE_DATA);
    engine_delta_t options = {1, 2, 0, 0, 0, NULL};
    must("delta", NULL, engine_delta_encode(sum, g, M, ENGINE_FLOAT32, &options, delta, &room), ENGINE_OK);
    must("apply", NULL, engine_delta_apply(g, delta, room, left, M, ENGINE_FLOAT32), ENGINE_OK);
    if (memcmp(left, sum, M * sizeof *sum)) must("the same bytes", NULL, 1, 0);
    free(frame), free(delta), free(g);
}

static void *run(void *arg) {
    const int me = (int)(intptr_t)arg;
    double x[N * W], y[N], out[N];
    for (int i = 0; i < N * W; i++) x[i] = (double)((i * 31 + me) % 17 - 8) / 8;
    for (int round = 0; round < ROUNDS; round++) {
        coding(me);
        learning(me, x, y, out);
        pthread_mutex_lock(&gate);
        const int got = engine_publish(shared, "x", x, 1, (const int64_t[]){N}, NULL, ENGINE_FLOAT64, ENGINE_CPU);
        pthread_mutex_unlock(&gate);
        must("the shared engine", NULL, got, ENGINE_OK);
    }
    return NULL;
}

int main(void) {
    pthread_t threads[THREADS];
    must("open shared", NULL, engine_open(ENGINE_ALONE, NULL, &shared), ENGINE_OK);
    for (intptr_t i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, run, (void *)i);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    must("close shared", NULL, engine_close(shared), ENGINE_OK);
    if (!failed) puts("host alive");
    return failed != 0;
}
