// The wall between libtorch's exceptions and the rest of Chord. No torch header here.
#pragma once

#include <utility>

#include "absl/status/status.h"

namespace chord::engine {

// Inside a catch block. Memory that ran out, on the host or a device: DEVICE_MEMORY. Everything
// else: an uncatalogued INTERNAL with the exception's text, for logs and tools; a client never sees
// it (errors.h: ForClient).
absl::Status StatusFromCurrentException();

// Runs `fn`, which returns absl::Status or absl::StatusOr<T>.
template <typename Fn>
auto Guard(Fn&& fn) -> decltype(std::forward<Fn>(fn)()) {
  try {
    return std::forward<Fn>(fn)();
  } catch (...) {
    return StatusFromCurrentException();
  }
}

}  // namespace chord::engine
