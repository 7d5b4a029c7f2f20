/* What heat.f90 needs of MPI, for Fortran compilers that have no MPI module here; with one, say `use mpi_f08` instead. */
#include <mpi.h>

#include "engine.h"

int heat_start_(int *rank, int *size) {
    int level;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_MULTIPLE, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, rank);
    MPI_Comm_size(MPI_COMM_WORLD, size);
    return ENGINE_COMM(MPI_COMM_WORLD);
}

/* Ring of ranks: n values to the one before, as many from the one behind, and the other way round. */
void heat_swap_(const double *first, double *behind, const double *last, double *before, int *n, int *rank, int *size) {
    const int up = (*rank + *size - 1) % *size, down = (*rank + 1) % *size;
    MPI_Sendrecv(first, *n, MPI_DOUBLE, up, 0, behind, *n, MPI_DOUBLE, down, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    MPI_Sendrecv(last, *n, MPI_DOUBLE, down, 1, before, *n, MPI_DOUBLE, up, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
}

void heat_sum_(double *value, int *n) { MPI_Allreduce(MPI_IN_PLACE, value, *n, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD); }

void heat_stop_(void) { MPI_Finalize(); }
