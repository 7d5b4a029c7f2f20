"""Plans: `(state, event) -> (state, [actions])`. No I/O, no clock, no MPI; tested at thousands of simulated ranks."""
