include(FindPackageHandleStandardArgs)
if(NOT LIBTORCH_ROOT)   # .../site-packages/torch
  find_package(Python3 QUIET COMPONENTS Interpreter)
  execute_process(COMMAND "${Python3_EXECUTABLE}" -c
    "import importlib.util as u;print(u.find_spec('torch').submodule_search_locations[0])"
    OUTPUT_VARIABLE LIBTORCH_ROOT OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
if(EXISTS "${LIBTORCH_ROOT}/version.py")
  file(STRINGS "${LIBTORCH_ROOT}/version.py" _v REGEX "^__version__")
  string(REGEX MATCH "[0-9]+\\.[0-9]+\\.[0-9]+" Libtorch_VERSION "${_v}")
endif()
foreach(_l torch_cpu c10 torch_cuda c10_cuda)
  find_library(Libtorch_${_l} ${_l} PATHS "${LIBTORCH_ROOT}/lib" NO_DEFAULT_PATH)
endforeach()
find_package_handle_standard_args(Libtorch REQUIRED_VARS Libtorch_torch_cpu Libtorch_c10 VERSION_VAR Libtorch_VERSION)
if(Libtorch_FOUND AND NOT TARGET torch::cpu)
  set(_inc "${CMAKE_BINARY_DIR}/libtorch-include")  # hides torch/include/{google,fmt,oneapi}
  file(MAKE_DIRECTORY "${_inc}")
  foreach(_d ATen c10 caffe2 torch)
    file(CREATE_LINK "${LIBTORCH_ROOT}/include/${_d}" "${_inc}/${_d}" SYMBOLIC)
  endforeach()
  foreach(_l c10 torch_cpu c10_cuda torch_cuda)
    add_library(torch::${_l} SHARED IMPORTED)
    set_target_properties(torch::${_l} PROPERTIES IMPORTED_LOCATION "${Libtorch_${_l}}")
  endforeach()
  add_library(torch::cpu INTERFACE IMPORTED)
  target_include_directories(torch::cpu SYSTEM INTERFACE "${_inc}" "${_inc}/torch/csrc/api/include")
  target_link_libraries(torch::cpu INTERFACE  # one token, so CMake cannot reorder it
    "-Wl,--push-state,--no-as-needed,${Libtorch_torch_cpu},--pop-state" torch::torch_cpu torch::c10)
  find_package(CUDAToolkit QUIET)
  if(Libtorch_torch_cuda AND CUDAToolkit_FOUND)
    add_library(torch::cuda INTERFACE IMPORTED)
    target_link_libraries(torch::cuda INTERFACE torch::cpu
      "-Wl,--push-state,--no-as-needed,${Libtorch_torch_cuda},--pop-state"
      torch::torch_cuda torch::c10_cuda CUDA::cudart)
  endif()
endif()
