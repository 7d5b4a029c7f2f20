! engine.f90: engine.h for Fortran 2008. Compile it with the solver:
!   gfortran $(engine embed --fortran) solver.f90 $(engine embed --libs)
! An array of shape (features, rows) has a row of features in each column: C sees the axes in reverse order.
module engine
  use, intrinsic :: iso_c_binding
  use, intrinsic :: iso_fortran_env, only: real32, real64
  implicit none
  private
  public :: engine_type, engine_abi, ENGINE_ALONE

  integer, parameter, public :: ENGINE_OK = 0, ENGINE_USAGE = 64, ENGINE_DATA = 65, ENGINE_UNAVAILABLE = 69, &
    ENGINE_FAILED = 70, ENGINE_IO = 74, ENGINE_AGAIN = 75
  integer, parameter, public :: ENGINE_INT32 = 5, ENGINE_INT64 = 7, ENGINE_FLOAT32 = 10, ENGINE_FLOAT64 = 11
  integer, parameter, public :: ENGINE_CPU = 0, ENGINE_CUDA = 1
  integer, parameter :: ENGINE_ALONE = -huge(0) - 1

  ! Every call sets `status` to ENGINE_OK or a code; without `status` a failure prints its message and stops.
  type :: engine_type
    type(c_ptr) :: handle = c_null_ptr
  contains
    procedure :: open => open_engine
    procedure :: publish_at
    procedure :: learn
    procedure :: predict
    procedure :: test
    procedure :: wait => wait_engine
    procedure :: checkpoint
    procedure :: info
    procedure :: error => error_text
    procedure :: close => close_engine
    procedure, private :: publish_real64_1, publish_real64_2, publish_real64_3, publish_real64_4, &
      publish_real32_1, publish_real32_2, publish_real32_3, publish_real32_4
    procedure, private :: windows_real64, windows_real32
    generic :: publish => publish_real64_1, publish_real64_2, publish_real64_3, publish_real64_4, &
      publish_real32_1, publish_real32_2, publish_real32_3, publish_real32_4
    generic :: windows => windows_real64, windows_real32
  end type

  interface
    integer(c_int) function c_open(comm, toml, handle) bind(c, name='engine_open')
      import :: c_int, c_char, c_ptr
      integer(c_int), value :: comm
      character(kind=c_char), intent(in) :: toml(*)
      type(c_ptr), intent(out) :: handle
    end function
    integer(c_int) function c_publish(handle, name, data, ndim, shape, strides, dtype, device) bind(c, name='engine_publish')
      import :: c_int, c_char, c_ptr, c_int64_t
      type(c_ptr), value :: handle, data
      character(kind=c_char), intent(in) :: name(*)
      integer(c_int), value :: ndim, dtype, device
      integer(c_int64_t), intent(in) :: shape(*), strides(*)
    end function
    integer(c_int) function c_learn(handle, x, y) bind(c, name='engine_learn')
      import :: c_int, c_char, c_ptr
      type(c_ptr), value :: handle
      character(kind=c_char), intent(in) :: x(*), y(*)
    end function
    integer(c_int) function c_predict(handle, x, out) bind(c, name='engine_predict')
      import :: c_int, c_char, c_ptr
      type(c_ptr), value :: handle
      character(kind=c_char), intent(in) :: x(*), out(*)
    end function
    integer(c_int) function c_test(handle, done) bind(c, name='engine_test')
      import :: c_int, c_ptr
      type(c_ptr), value :: handle
      integer(c_int), intent(out) :: done
    end function
    integer(c_int) function c_wait(handle) bind(c, name='engine_wait')
      import :: c_int, c_ptr
      type(c_ptr), value :: handle
    end function
    integer(c_int) function c_checkpoint(handle, directory) bind(c, name='engine_checkpoint')
      import :: c_int, c_ptr
      type(c_ptr), value :: handle, directory
    end function
    integer(c_int) function c_info(handle, json, size) bind(c, name='engine_info')
      import :: c_int, c_ptr, c_size_t
      type(c_ptr), value :: handle, json
      integer(c_size_t), intent(inout) :: size
    end function
    type(c_ptr) function c_error(handle) bind(c, name='engine_error')
      import :: c_ptr
      type(c_ptr), value :: handle
    end function
    integer(c_int) function c_close(handle) bind(c, name='engine_close')
      import :: c_int, c_ptr
      type(c_ptr), value :: handle
    end function
    integer(c_int) function engine_abi() bind(c, name='engine_abi')
      import :: c_int
    end function
    integer(c_size_t) function c_strlen(text) bind(c, name='strlen')
      import :: c_ptr, c_size_t
      type(c_ptr), value :: text
    end function
  end interface

contains

  ! Collective. `comm`: MPI_COMM_WORLD of `use mpi`, comm%MPI_VAL of `use mpi_f08`, or ENGINE_ALONE.
  subroutine open_engine(self, comm, toml, status)
    class(engine_type), intent(inout) :: self
    integer, intent(in) :: comm
    character(*), intent(in), optional :: toml
    integer, intent(out), optional :: status
    if (present(toml)) then
      call tell(self, c_open(int(comm, c_int), toml // c_null_char, self%handle), status)
    else
      call tell(self, c_open(int(comm, c_int), c_null_char, self%handle), status)
    end if
  end subroutine

  ! Name what lies at `data`. Shape and strides (bytes) in C order, slowest axis first. The publish of arrays is made of this.
  subroutine publish_at(self, name, data, shape, strides, dtype, status, device)
    class(engine_type), intent(in) :: self
    character(*), intent(in) :: name
    type(c_ptr), intent(in) :: data
    integer(c_int64_t), intent(in) :: shape(:), strides(:)
    integer, intent(in) :: dtype
    integer, intent(out), optional :: status
    integer, intent(in), optional :: device
    integer(c_int) :: where
    where = ENGINE_CPU
    if (present(device)) where = int(device, c_int)
    call tell(self, c_publish(self%handle, name // c_null_char, data, size(shape, kind=c_int), shape, strides, int(dtype, c_int), &
      where), status)
  end subroutine

  ! Learn rows (collective): y has the shape of the rows; x the same behind the axes of its features.
  subroutine learn(self, x, y, status)
    class(engine_type), intent(in) :: self
    character(*), intent(in) :: x, y
    integer, intent(out), optional :: status
    call tell(self, c_learn(self%handle, x // c_null_char, y // c_null_char), status)
  end subroutine

  subroutine predict(self, x, out, status)
    class(engine_type), intent(in) :: self
    character(*), intent(in) :: x, out
    integer, intent(out), optional :: status
    call tell(self, c_predict(self%handle, x // c_null_char, out // c_null_char), status)
  end subroutine

  logical function test(self, status)
    class(engine_type), intent(in) :: self
    integer, intent(out), optional :: status
    integer(c_int) :: done
    call tell(self, c_test(self%handle, done), status)
    test = done /= 0
  end function

  subroutine wait_engine(self, status)
    class(engine_type), intent(in) :: self
    integer, intent(out), optional :: status
    call tell(self, c_wait(self%handle), status)
  end subroutine

  subroutine checkpoint(self, directory, status)
    class(engine_type), intent(in) :: self
    character(*), intent(in), optional :: directory
    integer, intent(out), optional :: status
    character(kind=c_char, len=:), allocatable, target :: path
    if (present(directory)) then
      path = directory // c_null_char
      call tell(self, c_checkpoint(self%handle, c_loc(path)), status)
    else
      call tell(self, c_checkpoint(self%handle, c_null_ptr), status)
    end if
  end subroutine

  ! What is known here, as JSON.
  function info(self) result(text)
    class(engine_type), intent(in) :: self
    character(len=:), allocatable :: text
    character(kind=c_char, len=16384), target :: json
    integer(c_size_t) :: room
    room = len(json)
    text = '{}'
    if (c_info(self%handle, c_loc(json), room) == ENGINE_OK) text = json(1:room - 1)
  end function

  ! Text of the last error.
  function error_text(self) result(text)
    class(engine_type), intent(in) :: self
    character(len=:), allocatable :: text
    character(kind=c_char), pointer :: letters(:)
    type(c_ptr) :: found
    integer :: i
    found = c_error(self%handle)
    call c_f_pointer(found, letters, [c_strlen(found)])
    allocate(character(len=size(letters)) :: text)
    do i = 1, size(letters)
      text(i:i) = letters(i)
    end do
  end function

  ! Collective.
  subroutine close_engine(self, status)
    class(engine_type), intent(inout) :: self
    integer, intent(out), optional :: status
    integer(c_int) :: code
    code = c_close(self%handle)
    self%handle = c_null_ptr
    call tell(self, code, status)
  end subroutine

  subroutine tell(self, code, status)
    class(engine_type), intent(in) :: self
    integer(c_int), intent(in) :: code
    integer, intent(out), optional :: status
    if (present(status)) then
      status = code
    else if (code /= ENGINE_OK) then
      print '(a)', 'engine: ' // error_text(self)
      error stop 1
    end if
  end subroutine

  ! Bytes from one element to another.
  integer(c_int64_t) function gap(from, to)
    type(c_ptr), intent(in) :: from, to
    gap = int(transfer(to, 0_c_intptr_t) - transfer(from, 0_c_intptr_t), c_int64_t)
  end function

  subroutine publish_real64_1(self, name, a, status)
    class(engine_type), intent(in) :: self
    character(*), intent(in) :: name
    real(real64), intent(in), target :: a(:)
    integer, intent(out), optional :: status
    integer(c_int64_t) :: n(1), s(1)
    n = shape(a, kind=c_int64_t)
    s = 8
    if (size(a) == 0) then
      call publish_at(self, name, c_null_ptr, n(1:1:-1), s, 11, status)
      return
    end if
    if (n(1) > 1) s(1) = gap(c_loc(a(1)), c_loc(a(2)))
    call publish_at(self, name, c_loc(a(1)), n(1:1:-1), s(1:1:-1), 11, status)
  end subroutine

  subroutine publish_real64_2(self, name, a, status)
    class(engine_type), intent(in) :: self
    character(*), intent(in) :: name
    real(real64), intent(in), target :: a(:,:)
    integer, intent(out), optional :: status
    integer(c_int64_t) :: n(2), s(2)
    n = shape(a, kind=c_int64_t)
    s = 8
    if (size(a) == 0) then
      call publish_at(self, name, c_null_ptr, n(2:1:-1), s, 11, status)
      return
    end if
    if (n(1) > 1) s(1) = gap(c_loc(a(1,1)), c_loc(a(2,1)))
    if (n(2) > 1) s(2) = gap(c_loc(a(1,1)), c_loc(a(1,2)))
    call publish_at(self, name, c_loc(a(1,1)), n(2:1:-1), s(2:1:-1), 11, status)
  end subroutine

  subroutine publish_real64_3(self, name, a, status)
    class(engine_type), intent(in) :: self
    character(*), intent(in) :: name
    real(real64), intent(in), target :: a(:,:,:)
    integer, intent(out), optional :: status
    integer(c_int64_t) :: n(3), s(3)
    n = shape(a, kind=c_int64_t)
    s = 8
    if (size(a) == 0) then
      call publish_at(self, name, c_null_ptr, n(3:1:-1), s, 11, status)
      return
    end if
    if (n(1) > 1) s(1) = gap(c_loc(a(1,1,1)), c_loc(a(2,1,1)))
    if (n(2) > 1) s(2) = gap(c_loc(a(1,1,1)), c_loc(a(1,2,1)))
    if (n(3) > 1) s(3) = gap(c_loc(a(1,1,1)), c_loc(a(1,1,2)))
    call publish_at(self, name, c_loc(a(1,1,1)), n(3:1:-1), s(3:1:-1), 11, status)
  end subroutine

  subroutine publish_real64_4(self, name, a, status)
    class(engine_type), intent(in) :: self
    character(*), intent(in) :: name
    real(real64), intent(in), target :: a(:,:,:,:)
    integer, intent(out), optional :: status
    integer(c_int64_t) :: n(4), s(4)
    n = shape(a, kind=c_int64_t)
    s = 8
    if (size(a) == 0) then
      call publish_at(self, name, c_null_ptr, n(4:1:-1), s, 11, status)
      return
    end if
    if (n(1) > 1) s(1) = gap(c_loc(a(1,1,1,1)), c_loc(a(2,1,1,1)))
    if (n(2) > 1) s(2) = gap(c_loc(a(1,1,1,1)), c_loc(a(1,2,1,1)))
    if (n(3) > 1) s(3) = gap(c_loc(a(1,1,1,1)), c_loc(a(1,1,2,1)))
    if (n(4) > 1) s(4) = gap(c_loc(a(1,1,1,1)), c_loc(a(1,1,1,2)))
    call publish_at(self, name, c_loc(a(1,1,1,1)), n(4:1:-1), s(4:1:-1), 11, status)
  end subroutine

  ! Name all windows of (2 reach + 1)^2 values of a field: one row of features around every inner point.
  subroutine windows_real64(self, name, a, reach, status)
    class(engine_type), intent(in) :: self
    character(*), intent(in) :: name
    real(real64), intent(in), target :: a(:,:)
    integer, intent(in), optional :: reach
    integer, intent(out), optional :: status
    integer(c_int64_t) :: n(2), s(2), r
    r = 1
    if (present(reach)) r = reach
    n = shape(a, kind=c_int64_t)
    s = [gap(c_loc(a(1,1)), c_loc(a(2,1))), gap(c_loc(a(1,1)), c_loc(a(1,2)))]
    call publish_at(self, name, c_loc(a(1,1)), [n(2) - 2*r, n(1) - 2*r, 2*r + 1, 2*r + 1], [s(2), s(1), s(2), s(1)], 11, status)
  end subroutine

  subroutine publish_real32_1(self, name, a, status)
    class(engine_type), intent(in) :: self
    character(*), intent(in) :: name
    real(real32), intent(in), target :: a(:)
    integer, intent(out), optional :: status
    integer(c_int64_t) :: n(1), s(1)
    n = shape(a, kind=c_int64_t)
    s = 4
    if (size(a) == 0) then
      call publish_at(self, name, c_null_ptr, n(1:1:-1), s, 10, status)
      return
    end if
    if (n(1) > 1) s(1) = gap(c_loc(a(1)), c_loc(a(2)))
    call publish_at(self, name, c_loc(a(1)), n(1:1:-1), s(1:1:-1), 10, status)
  end subroutine

  subroutine publish_real32_2(self, name, a, status)
    class(engine_type), intent(in) :: self
    character(*), intent(in) :: name
    real(real32), intent(in), target :: a(:,:)
    integer, intent(out), optional :: status
    integer(c_int64_t) :: n(2), s(2)
    n = shape(a, kind=c_int64_t)
    s = 4
    if (size(a) == 0) then
      call publish_at(self, name, c_null_ptr, n(2:1:-1), s, 10, status)
      return
    end if
    if (n(1) > 1) s(1) = gap(c_loc(a(1,1)), c_loc(a(2,1)))
    if (n(2) > 1) s(2) = gap(c_loc(a(1,1)), c_loc(a(1,2)))
    call publish_at(self, name, c_loc(a(1,1)), n(2:1:-1), s(2:1:-1), 10, status)
  end subroutine

  subroutine publish_real32_3(self, name, a, status)
    class(engine_type), intent(in) :: self
    character(*), intent(in) :: name
    real(real32), intent(in), target :: a(:,:,:)
    integer, intent(out), optional :: status
    integer(c_int64_t) :: n(3), s(3)
    n = shape(a, kind=c_int64_t)
    s = 4
    if (size(a) == 0) then
      call publish_at(self, name, c_null_ptr, n(3:1:-1), s, 10, status)
      return
    end if
    if (n(1) > 1) s(1) = gap(c_loc(a(1,1,1)), c_loc(a(2,1,1)))
    if (n(2) > 1) s(2) = gap(c_loc(a(1,1,1)), c_loc(a(1,2,1)))
    if (n(3) > 1) s(3) = gap(c_loc(a(1,1,1)), c_loc(a(1,1,2)))
    call publish_at(self, name, c_loc(a(1,1,1)), n(3:1:-1), s(3:1:-1), 10, status)
  end subroutine

  subroutine publish_real32_4(self, name, a, status)
    class(engine_type), intent(in) :: self
    character(*), intent(in) :: name
    real(real32), intent(in), target :: a(:,:,:,:)
    integer, intent(out), optional :: status
    integer(c_int64_t) :: n(4), s(4)
    n = shape(a, kind=c_int64_t)
    s = 4
    if (size(a) == 0) then
      call publish_at(self, name, c_null_ptr, n(4:1:-1), s, 10, status)
      return
    end if
    if (n(1) > 1) s(1) = gap(c_loc(a(1,1,1,1)), c_loc(a(2,1,1,1)))
    if (n(2) > 1) s(2) = gap(c_loc(a(1,1,1,1)), c_loc(a(1,2,1,1)))
    if (n(3) > 1) s(3) = gap(c_loc(a(1,1,1,1)), c_loc(a(1,1,2,1)))
    if (n(4) > 1) s(4) = gap(c_loc(a(1,1,1,1)), c_loc(a(1,1,1,2)))
    call publish_at(self, name, c_loc(a(1,1,1,1)), n(4:1:-1), s(4:1:-1), 10, status)
  end subroutine

  ! Name all windows of (2 reach + 1)^2 values of a field: one row of features around every inner point.
  subroutine windows_real32(self, name, a, reach, status)
    class(engine_type), intent(in) :: self
    character(*), intent(in) :: name
    real(real32), intent(in), target :: a(:,:)
    integer, intent(in), optional :: reach
    integer, intent(out), optional :: status
    integer(c_int64_t) :: n(2), s(2), r
    r = 1
    if (present(reach)) r = reach
    n = shape(a, kind=c_int64_t)
    s = [gap(c_loc(a(1,1)), c_loc(a(2,1))), gap(c_loc(a(1,1)), c_loc(a(1,2)))]
    call publish_at(self, name, c_loc(a(1,1)), [n(2) - 2*r, n(1) - 2*r, 2*r + 1, 2*r + 1], [s(2), s(1), s(2), s(1)], 10, status)
  end subroutine

end module
