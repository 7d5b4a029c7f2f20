// A 2-D heat equation on a fine grid, in slabs over MPI ranks, learns its own coarse surrogate while it runs: from a window of
// 3 x 3 coarse cells, how the middle one changes over the next 20 fine steps. Pulses of heat keep the field alive.
//   mpicxx -O2 heat.cpp $(engine embed --cflags --libs) -o heat && mpiexec -n 2 ./heat [off|sync|async] [cells] [steps]
// Prints: step, error of the surrogate, error of "nothing changes" (root mean squares over all ranks), seconds to stderr.
#include <mpi.h>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>
#include "engine.hpp"

constexpr int coarse = 4, substeps = 20, pulses = 4;
struct Grid {  // rows x width cells of this rank, with a halo of one cell; the domain is a torus
    int rows, width;
    std::vector<double> cell;
    Grid(int r, int w) : rows(r), width(w), cell(std::size_t(r + 2) * std::size_t(w + 2)) {}
    double* row(int i) { return cell.data() + std::ptrdiff_t(i + 1) * (width + 2) + 1; }

    void halo(int rank, int size) {
        const int up = (rank + size - 1) % size, down = (rank + 1) % size, n = width + 2;
        for (int i = 0; i < rows; ++i) row(i)[-1] = row(i)[width - 1], row(i)[width] = row(i)[0];
        MPI_Sendrecv(row(0) - 1, n, MPI_DOUBLE, up, 0, row(rows) - 1, n, MPI_DOUBLE, down, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        MPI_Sendrecv(row(rows - 1) - 1, n, MPI_DOUBLE, down, 1, row(-1) - 1, n, MPI_DOUBLE, up, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    }
};

void diffuse(Grid& u, Grid& next) {
    for (int i = 0; i < u.rows; ++i) {
        const double *up = u.row(i - 1), *here = u.row(i), *down = u.row(i + 1);
        for (int j = 0; j < u.width; ++j) next.row(i)[j] = here[j] + 0.2 * (up[j] + down[j] + here[j - 1] + here[j + 1] - 4 * here[j]);
    }
    u.cell.swap(next.cell);
}

void pulse(Grid& u, int first, unsigned long long& state) {  // the same on every rank, each adds what falls on its slab
    auto draw = [&] { return double((state = state * 6364136223846793005u + 1442695040888963407u) >> 11) / 9007199254740992.0; };
    for (int k = 0; k < pulses; ++k) {
        const int y = int(draw() * u.width), x = int(draw() * u.width), reach = 24, heat = draw() < 0.5 ? -1 : 1;
        for (int a = -reach; a <= reach; ++a) {
            const int i = (y + a + u.width) % u.width - first;
            for (int b = -reach; i >= 0 && i < u.rows && b <= reach; ++b)
                u.row(i)[(x + b + u.width) % u.width] += heat * std::exp(-(a * a + b * b) / 72.0);
        }
    }
}

void restrict_to(Grid& big, Grid& small) {
    for (int i = 0; i < small.rows; ++i)
        for (int j = 0; j < small.width; ++j) {
            small.row(i)[j] = 0;
            for (int k = 0; k < coarse * coarse; ++k)
                small.row(i)[j] += big.row(i * coarse + k / coarse)[j * coarse + k % coarse] / (coarse * coarse);
        }
}

int main(int argc, char** argv) {
    int level, rank, size;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_MULTIPLE, &level);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank), MPI_Comm_size(MPI_COMM_WORLD, &size);
    const std::string mode = argc > 1 ? argv[1] : "sync";
    const int cells = argc > 2 ? std::stoi(argv[2]) : 128, steps = argc > 3 ? std::stoi(argv[3]) : 200, rows = cells / size;
    Grid u(rows, cells), next(rows, cells), now(rows / coarse, cells / coarse), later = now;
    const int ny = now.rows, nx = now.width;
    std::vector<double> change(std::size_t(ny * nx)), guess(change.size());
    try {
        engine::Engine model(ENGINE_COMM(MPI_COMM_WORLD), std::string(mode == "async" ? "embed.asynchronous = true\n" : "") + R"(
            embed.width = 9
            exchange = {every = 65536, merge = "average"}
            model = {learner = "adagrad", rate = 0.1, scale = false}
            loop.threads = 1)");
        model.windows("window", now.cell.data(), ny + 2, nx + 2);
        model.publish("change", change.data(), {ny, nx});
        model.publish("guess", guess.data(), {ny, nx});
        const double began = MPI_Wtime();
        unsigned long long state = 1;
        for (int step = 0; step < steps; ++step) {
            pulse(u, rank * rows, state);
            restrict_to(u, now);
            now.halo(rank, size);
            if (mode != "off") model.predict("window", "guess");
            for (int k = 0; k < substeps; ++k) u.halo(rank, size), diffuse(u, next);
            restrict_to(u, later);
            double error[2] = {0, 0};
            for (std::size_t i = 0; i < change.size(); ++i) {
                change[i] = later.row(int(i) / nx)[int(i) % nx] - now.row(int(i) / nx)[int(i) % nx];
                error[0] += (guess[i] - change[i]) * (guess[i] - change[i]), error[1] += change[i] * change[i];
            }
            if (mode != "off") model.learn("window", "change");
            MPI_Allreduce(MPI_IN_PLACE, error, 2, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
            const double all = double(change.size()) * size;
            if (!rank) std::printf("%d %.9f %.9f\n", step, std::sqrt(error[0] / all), std::sqrt(error[1] / all));
        }
        if (!rank) std::fprintf(stderr, "%.6f seconds\n", MPI_Wtime() - began);
        model.close();
    } catch (const engine::Error& error) {
        std::fprintf(stderr, "rank %d: engine: %s\n", rank, error.what());
        return MPI_Abort(MPI_COMM_WORLD, error.code());
    }
    return MPI_Finalize();
}
