# find_package(engine REQUIRED PATHS "<engine embed --cmake>"); target_link_libraries(solver engine::engine)
# Fortran solvers also add ${engine_FORTRAN_MODULE} to their sources.
get_filename_component(engine_LIB "${CMAKE_CURRENT_LIST_DIR}/.." REALPATH)
get_filename_component(engine_INCLUDE "${engine_LIB}/../include" REALPATH)
set(engine_FORTRAN_MODULE "${engine_INCLUDE}/engine.f90")
set(engine_VERSION 0.1.0)
if(NOT EXISTS "${engine_LIB}/libengine.so")
  set(engine_FOUND FALSE)
  set(engine_NOT_FOUND_MESSAGE "libengine.so is not in ${engine_LIB}: install the Python package engine")
elseif(NOT TARGET engine::engine)
  add_library(engine::engine SHARED IMPORTED)
  set_target_properties(engine::engine PROPERTIES
    IMPORTED_LOCATION "${engine_LIB}/libengine.so"
    IMPORTED_SONAME "libengine.so"
    INTERFACE_INCLUDE_DIRECTORIES "${engine_INCLUDE}")
endif()
