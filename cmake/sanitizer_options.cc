// Linked into every program of a sanitizer build, so that it behaves the same wherever it is run.
// Suppressed is only what libraries do that are built without the sanitizer.

extern "C" {

const char* __asan_default_options() {  // NOLINT(bugprone-reserved-identifier)
  return "detect_stack_use_after_return=1:strict_string_checks=1:allocator_may_return_null=1";
}

const char* __lsan_default_suppressions() {  // NOLINT(bugprone-reserved-identifier)
  return "leak:libtorch_cpu.so\nleak:libgomp.so\n";
}

const char* __ubsan_default_options() {  // NOLINT(bugprone-reserved-identifier)
  return "print_stacktrace=1";
}

// Locks and atomics inside these libraries are not seen, so their hand-overs look like races.
const char* __tsan_default_suppressions() {  // NOLINT(bugprone-reserved-identifier)
  return "race:libtorch_cpu.so\nrace:libc10.so\nrace:libgomp.so\n"
         "called_from_lib:libtorch_cpu.so\ncalled_from_lib:libc10.so\ncalled_from_lib:libgomp.so\n"
         "race:libgrpc.so\nrace:libgpr.so\nrace:libgrpc++.so\n"
         "called_from_lib:libgrpc.so\ncalled_from_lib:libgpr.so\n"
         "race:libabsl_\nmutex:libgrpc.so\n";
}

}  // extern "C"
