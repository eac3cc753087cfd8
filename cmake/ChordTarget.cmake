# One function per kind of target. A library is one folder and one alias, chord::<name>; what it may
# include is exactly what it lists in DEPS, and the lists are the include order of docs/architecture.md.
add_library(chord_options INTERFACE)
target_compile_options(chord_options INTERFACE -Wall -Wextra -Wnon-virtual-dtor -Wno-unused-parameter
  # GCC 12 takes the moves inside std::variant and std::optional for reads of unset memory.
  $<$<CXX_COMPILER_ID:GNU>:-Wshadow=local> $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized> $<$<CXX_COMPILER_ID:Clang>:-Wshadow>
  $<$<BOOL:${CHORD_WERROR}>:-Werror>)
target_include_directories(chord_options INTERFACE "${CMAKE_SOURCE_DIR}")
if(CHORD_SANITIZE)
  target_compile_options(chord_options INTERFACE
    -fsanitize=${CHORD_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(chord_options INTERFACE -fsanitize=${CHORD_SANITIZE})
endif()
if(CHORD_FUZZ)
  target_compile_options(chord_options INTERFACE -fsanitize=fuzzer-no-link)
endif()

function(chord_library name)
  cmake_parse_arguments(A "" "" "SRCS;DEPS;PRIVATE_DEPS" ${ARGN})
  add_library(chord_${name} STATIC ${A_SRCS})
  add_library(chord::${name} ALIAS chord_${name})
  target_link_libraries(chord_${name} PUBLIC chord_options ${A_DEPS} PRIVATE ${A_PRIVATE_DEPS})
endfunction()

# What every program shares.
function(_chord_program name)
  target_link_libraries(${name} PRIVATE chord_options ${ARGN})
  if(CHORD_SANITIZE)
    target_sources(${name} PRIVATE "${CMAKE_SOURCE_DIR}/cmake/sanitizer_options.cc")
  endif()
  if(CHORD_SANITIZE MATCHES thread)
    target_sources(${name} PRIVATE "${CMAKE_SOURCE_DIR}/cmake/tsan_absl.cc")
    file(STRINGS "${CMAKE_SOURCE_DIR}/cmake/tsan_absl.cc" text REGEX "_ZNK?4absl")
    string(REGEX MATCHALL "_ZNK?4absl[A-Za-z0-9_]+" symbols "${text}")
    list(REMOVE_DUPLICATES symbols)
    list(TRANSFORM symbols PREPEND "LINKER:--wrap=")
    target_link_options(${name} PRIVATE ${symbols})
    target_link_libraries(${name} PRIVATE absl::synchronization)
  endif()
endfunction()

function(chord_executable name)
  cmake_parse_arguments(A "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${A_SRCS})
  _chord_program(${name} ${A_DEPS})
  set_property(GLOBAL APPEND PROPERTY CHORD_PROGRAMS ${name})
endfunction()

# A program that tests run. Not installed.
function(chord_test_program name)
  cmake_parse_arguments(A "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${A_SRCS})
  _chord_program(${name} ${A_DEPS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/tests")
endfunction()

# A unit test program; each TEST becomes a CTest test with the label "unit" (or LABEL). With TOGETHER
# the program is one CTest test: for those that load libtorch, which takes longer than most TESTs.
function(chord_test name)
  cmake_parse_arguments(A "TOGETHER" "LABEL" "SRCS;DEPS" ${ARGN})
  if(NOT A_LABEL)
    set(A_LABEL unit)
  endif()
  add_executable(${name} ${A_SRCS})
  _chord_program(${name} ${A_DEPS} GTest::gmock GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE CHORD_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
    set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/tests")
  if(A_TOGETHER)
    add_test(NAME ${name} COMMAND ${name} --gtest_brief=1)
    set_tests_properties(${name} PROPERTIES LABELS ${A_LABEL} TIMEOUT 900)
  else()
    gtest_discover_tests(${name} PROPERTIES LABELS ${A_LABEL} TIMEOUT 300 DISCOVERY_TIMEOUT 60)
  endif()
endfunction()

# A libFuzzer target, LLVMFuzzerTestOneInput in SRCS, with its corpus in tests/fuzz/corpus/CORPUS.
# With CHORD_FUZZ it is a fuzzer; in every build its corpus runs as a unit test.
function(chord_fuzzer name)
  cmake_parse_arguments(A "" "CORPUS" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${A_SRCS})
  _chord_program(${name} ${A_DEPS})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${CMAKE_BINARY_DIR}/fuzz")
  if(CHORD_FUZZ)
    target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  else()
    target_sources(${name} PRIVATE "${CMAKE_SOURCE_DIR}/tests/fuzz/run_corpus.cc")
  endif()
  set(corpus "${CMAKE_SOURCE_DIR}/tests/fuzz/corpus/${A_CORPUS}")
  file(WRITE "${CMAKE_BINARY_DIR}/fuzz/${name}.corpus" "${corpus}")  # read by tools/dev.sh
  add_test(NAME fuzz.${name} COMMAND ${name} -runs=0 "${corpus}")
  set_tests_properties(fuzz.${name} PROPERTIES LABELS "unit;fuzz" TIMEOUT 300)
endfunction()
