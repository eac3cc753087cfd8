# An install tree that runs wherever it is moved: bin/, lib/ with libtorch, share/chord/models/chord-nano.
# Debian's libraries (gRPC, protobuf, OpenCV, codecs) stay dependencies of the system.
include(GNUInstallDirs)
get_property(_programs GLOBAL PROPERTY CHORD_PROGRAMS)
if(_programs)
  set_target_properties(${_programs} PROPERTIES INSTALL_RPATH "$ORIGIN/../lib")
  install(TARGETS ${_programs} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
# libtorch's libraries look for each other beside themselves, so one flat folder is enough.
file(GLOB _runtime "${LIBTORCH_ROOT}/lib/libgomp.so*"
  "${LIBTORCH_ROOT}/../nvidia/cu13/lib/libcudart.so.*" "${LIBTORCH_ROOT}/../nvidia/cu13/lib/libcupti.so.*")
install(FILES ${Libtorch_torch_cpu} ${Libtorch_c10} ${_runtime} DESTINATION lib)
if(TARGET chord_cuda)
  install(TARGETS chord_cuda LIBRARY DESTINATION lib)
endif()
install(DIRECTORY models/chord-nano DESTINATION share/chord/models)
install(FILES LICENSE README.md DESTINATION share/doc/chord)
