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
# With the plugin the tree is whole for a GPU: libtorch_cuda and the CUDA libraries it needs (3 GB) go
# beside it. The driver's libcuda stays the host's.
if(TARGET chord_cuda)
  install(TARGETS chord_cuda LIBRARY DESTINATION lib)
  option(CHORD_INSTALL_CUDA "Install libtorch_cuda and the CUDA libraries with libchord_cuda" ON)
  if(CHORD_INSTALL_CUDA)
    install(CODE "
      execute_process(COMMAND \"${CMAKE_COMMAND}\" -DREQUIRED=$<STREQUAL:${CHORD_CUDA},ON> -DTORCH_LIB=${LIBTORCH_ROOT}/lib -DPLUGIN=$<TARGET_FILE:chord_cuda>
        \"-DDESTINATION=\${CMAKE_INSTALL_PREFIX}/lib\" -P \"${CMAKE_SOURCE_DIR}/cmake/InstallCudaRuntime.cmake\"
        COMMAND_ERROR_IS_FATAL ANY)")
  endif()
endif()
install(DIRECTORY models/chord-nano DESTINATION share/chord/models)
install(FILES LICENSE README.md DESTINATION share/doc/chord)

# For C++ clients (examples/cpp): find_package(chord) gives chord::client_proto, the messages and gRPC
# stubs of chord.v1. `cmake --install build --component Development` installs this part alone.
include(CMakePackageConfigHelpers)
set(_package "${CMAKE_INSTALL_LIBDIR}/cmake/chord")
install(TARGETS chord_proto_public EXPORT chord_targets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT Development)
install(EXPORT chord_targets NAMESPACE chord:: FILE chord-targets.cmake
  DESTINATION ${_package} COMPONENT Development)
configure_package_config_file(cmake/chord-config.cmake.in "${CMAKE_BINARY_DIR}/chord-config.cmake"
  INSTALL_DESTINATION ${_package})
# Before 1.0 a minor version may change what is exported.
write_basic_package_version_file("${CMAKE_BINARY_DIR}/chord-config-version.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_BINARY_DIR}/chord-config.cmake" "${CMAKE_BINARY_DIR}/chord-config-version.cmake"
  DESTINATION ${_package} COMPONENT Development)
install(DIRECTORY "${CMAKE_BINARY_DIR}/gen/chord/v1" DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/chord
  COMPONENT Development FILES_MATCHING PATTERN "*.h")
install(DIRECTORY proto/chord/v1 DESTINATION ${CMAKE_INSTALL_DATADIR}/chord/proto/chord COMPONENT Development)
