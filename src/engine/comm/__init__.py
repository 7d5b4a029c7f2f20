"""How ranks agree: Links over MPI or in process, and the exchanges built on them. The only room that knows mpi4py."""
