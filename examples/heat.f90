! The heat equation of heat.cpp in Fortran: the same fields, the same surrogate, the same numbers.
!   mpicc -c heat_mpi.c $(engine embed --cflags)
!   gfortran -O2 $(engine embed --fortran) heat.f90 heat_mpi.o $(engine embed --libs) -lmpi -o heat && mpiexec -n 2 ./heat
program heat
  use, intrinsic :: iso_c_binding
  use engine
  implicit none
  integer, external :: heat_start
  integer, parameter :: cells = 128, coarse = 4, substeps = 20, pulses = 4, steps = 200
  character(*), parameter :: toml = "embed.width = 9" // new_line('a') // "loop.threads = 1" // new_line('a') // &
    "exchange = {every = 65536, merge = 'average'}" // new_line('a') // &
    "model = {learner = 'adagrad', rate = 0.1, scale = false}" // new_line('a')
  type(engine_type) :: model
  integer(c_int) :: comm, rank, size, rows, step, k
  integer(c_int64_t) :: state = 1
  real(c_double), allocatable, target :: u(:,:), now(:,:), later(:,:), change(:,:), guess(:,:)
  real(c_double) :: error(2)

  comm = heat_start(rank, size)
  rows = cells / size
  allocate(u(0:cells+1, 0:rows+1), now(0:cells/coarse+1, 0:rows/coarse+1), source=0d0)  ! a column is a row of heat.cpp
  allocate(change(cells/coarse, rows/coarse), guess(cells/coarse, rows/coarse), source=0d0)
  later = now
  call model%open(comm, toml)
  call model%windows("window", now)
  call model%publish("change", change)
  call model%publish("guess", guess)
  do step = 0, steps - 1
    call pulse()
    call restrict_to(now)
    call halo(now)
    call model%predict("window", "guess")
    do k = 1, substeps
      call diffuse()
    end do
    call restrict_to(later)
    change = later(1:cells/coarse, 1:rows/coarse) - now(1:cells/coarse, 1:rows/coarse)
    error = [sum((guess - change)**2), sum(change**2)]
    call model%learn("window", "change")
    call heat_sum(error, 2)
    if (rank == 0) print '(i0, 2(1x, f11.9))', step, sqrt(error / (real(cells, c_double)**2 / coarse**2))
  end do
  call model%close()
  call heat_stop()

contains

  subroutine halo(a)
    real(c_double), intent(inout) :: a(0:, 0:)
    associate (nx => ubound(a, 1), ny => ubound(a, 2))
      a(0, :) = a(nx-1, :)
      a(nx, :) = a(1, :)
      call heat_swap(a(:, 1), a(:, ny), a(:, ny-1), a(:, 0), nx + 1, rank, size)
    end associate
  end subroutine

  subroutine diffuse()
    call halo(u)
    u(1:cells, 1:rows) = u(1:cells, 1:rows) + 0.2d0 * (u(1:cells, 0:rows-1) + u(1:cells, 2:rows+1) + u(0:cells-1, 1:rows) &
      + u(2:cells+1, 1:rows) - 4 * u(1:cells, 1:rows))
  end subroutine

  real(c_double) function draw()
    state = state * 6364136223846793005_c_int64_t + 1442695040888963407_c_int64_t  ! wraps, with -fwrapv
    draw = real(shiftr(state, 11), c_double) / 9007199254740992d0
  end function

  subroutine pulse()
    integer :: p, i, a, b, x, y
    real(c_double) :: heat
    do p = 1, pulses
      y = int(draw() * cells)
      x = int(draw() * cells)
      heat = merge(-1d0, 1d0, draw() < 0.5d0)
      do a = -24, 24
        i = modulo(y + a, cells) - rank * rows + 1
        if (i < 1 .or. i > rows) cycle
        do b = -24, 24
          k = modulo(x + b, cells) + 1
          u(k, i) = u(k, i) + heat * exp(-(a*a + b*b) / 72d0)
        end do
      end do
    end do
  end subroutine

  subroutine restrict_to(small)
    real(c_double), intent(inout) :: small(0:, 0:)
    integer :: i, j
    do concurrent (i = 1:cells/coarse, j = 1:rows/coarse)
      small(i, j) = sum(u(coarse*(i-1)+1:coarse*i, coarse*(j-1)+1:coarse*j)) / coarse**2
    end do
  end subroutine
end program
