# Everything Chord takes from outside. Debian 12 carries all of it but libtorch, which comes from
# the Python package (tools/setup.sh); see docs/adr for why.
find_package(Threads REQUIRED)
find_package(Protobuf REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(absl REQUIRED)   # built as C++14: absl::string_view is not std::string_view, use the former
find_package(JPEG REQUIRED)
find_package(PNG REQUIRED)
find_package(ZLIB REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(Boost 1.74 REQUIRED)            # headers only: Asio and Beast
find_package(nlohmann_json REQUIRED)
find_package(spdlog REQUIRED)
find_package(gRPC CONFIG REQUIRED)
pkg_check_modules(WEBP REQUIRED IMPORTED_TARGET libwebp libwebpdemux)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)
pkg_check_modules(FREETYPE REQUIRED IMPORTED_TARGET freetype2)   # labels on annotated images
pkg_check_modules(FONTCONFIG REQUIRED IMPORTED_TARGET fontconfig)
find_package(yaml-cpp REQUIRED)              # settings files
find_package(CLI11 REQUIRED)                 # headers only: the command line
find_package(prometheus-cpp REQUIRED COMPONENTS core)
# Debian's OpenCVConfig.cmake comes only with libopencv-dev, whose image codecs pull in 139 shared
# libraries; Chord needs core and imgproc alone.
find_path(OpenCV_INCLUDE opencv2/imgproc.hpp PATH_SUFFIXES opencv4 REQUIRED)
foreach(_module core imgproc)
  find_library(OpenCV_${_module} opencv_${_module} REQUIRED)
  add_library(opencv::${_module} SHARED IMPORTED)
  set_target_properties(opencv::${_module} PROPERTIES IMPORTED_LOCATION "${OpenCV_${_module}}"
    INTERFACE_INCLUDE_DIRECTORIES "${OpenCV_INCLUDE}")
endforeach()
find_program(CHORD_GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)

# tools/setup.sh makes this environment; LIBTORCH_ROOT (.../site-packages/torch) names another libtorch.
if(DEFINED ENV{CHORD_HOME})
  set(CHORD_VENV "$ENV{CHORD_HOME}/venv")
else()
  set(CHORD_VENV "$ENV{HOME}/.cache/chord/venv")
endif()
set(CHORD_PYTHON "${CHORD_VENV}/bin/python" CACHE FILEPATH "Python with the oracle, for parity tests")
if(NOT LIBTORCH_ROOT)
  file(GLOB LIBTORCH_ROOT "${CHORD_VENV}/lib/python3*/site-packages/torch")
endif()
find_package(Libtorch 2.11 REQUIRED)

if(CHORD_BUILD_TESTS)
  find_package(GTest REQUIRED)
endif()

# What lets ccache hit with a precompiled header and from another checkout. The environment has the last word.
find_program(CCACHE_PROGRAM ccache)
if(CCACHE_PROGRAM)
  set(CMAKE_CXX_COMPILER_LAUNCHER env)
  foreach(_setting "SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime"
      "BASEDIR=${CMAKE_SOURCE_DIR}" NOHASHDIR=1)
    string(REGEX REPLACE "=.*" "" _name "${_setting}")
    if(NOT DEFINED ENV{CCACHE_${_name}})
      list(APPEND CMAKE_CXX_COMPILER_LAUNCHER "CCACHE_${_setting}")
    endif()
  endforeach()
  list(APPEND CMAKE_CXX_COMPILER_LAUNCHER "${CCACHE_PROGRAM}")
endif()
