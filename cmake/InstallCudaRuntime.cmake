# What libtorch_cuda needs at run time, found from the libraries themselves and copied beside libtorch_cpu:
#
#   cmake -DTORCH_LIB=…/torch/lib -DDESTINATION=PREFIX/lib -P cmake/InstallCudaRuntime.cmake
#
# Libraries of the system's folders and the driver's libcuda stay dependencies. cuDNN loads its parts by name, so all
# of them are taken. When one is missing nothing is copied; with -DREQUIRED=ON that is an error.
cmake_minimum_required(VERSION 3.25)
get_filename_component(_site "${TORCH_LIB}/../.." REALPATH)
file(GLOB _folders "${_site}/nvidia/*/lib")
file(GLOB _loaded_by_name "${_site}/nvidia/cudnn/lib/libcudnn*.so*")
file(GET_RUNTIME_DEPENDENCIES
  LIBRARIES "${TORCH_LIB}/libtorch_cuda.so" "${TORCH_LIB}/libc10_cuda.so" ${_loaded_by_name} ${PLUGIN}
  DIRECTORIES "${TORCH_LIB}" ${_folders}
  PRE_EXCLUDE_REGEXES "^ld-linux" "^libcuda\\.so" "^libnvidia-ml\\.so"
  RESOLVED_DEPENDENCIES_VAR _resolved UNRESOLVED_DEPENDENCIES_VAR _missing CONFLICTING_DEPENDENCIES_PREFIX _both)
# The linker's search path may name the same file by two paths.
foreach(_name ${_both_FILENAMES})
  list(GET _both_${_name} 0 _first)
  list(APPEND _resolved "${_first}")
endforeach()
if(_missing)
  list(JOIN _missing ", " _missing)
  set(_text "libtorch_cuda needs ${_missing}, which this environment lacks: run tools/setup.sh --gpu")
  if(REQUIRED)
    message(FATAL_ERROR "${_text}")
  endif()
  message(WARNING "Installed for CPUs alone. ${_text}")
  return()
endif()
set(_copied "${TORCH_LIB}/libtorch_cuda.so" "${TORCH_LIB}/libc10_cuda.so" ${_loaded_by_name})
foreach(_library ${_resolved})
  if(NOT _library MATCHES "^/(usr/)?lib(32|64)?/")
    list(APPEND _copied "${_library}")
  endif()
endforeach()
# The linear algebra part of libtorch_cuda (cuSOLVER) and its runtime compiler (NVRTC) are loaded when first asked
# for, which Chord never does: they are left out.
list(REMOVE_DUPLICATES _copied)
set(_bytes 0)
foreach(_library ${_copied})
  file(SIZE "${_library}" _size)
  math(EXPR _bytes "${_bytes} + ${_size}")
endforeach()
math(EXPR _megabytes "${_bytes} / 1000000")
list(LENGTH _copied _count)
message(STATUS "CUDA runtime: ${_count} libraries, ${_megabytes} MB, to $ENV{DESTDIR}${DESTINATION}")
file(INSTALL DESTINATION "${DESTINATION}" TYPE SHARED_LIBRARY FOLLOW_SYMLINK_CHAIN FILES ${_copied})
