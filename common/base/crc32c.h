// CRC-32C (Castagnoli, RFC 3720), the checksum of a chunk of embeddings on the wire. Guards against
// damage on the way, not against forgery.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"

namespace chord {

// Uses the processor's instruction where there is one. Thread-safe.
uint32_t Crc32c(absl::string_view data);

namespace internal {
uint32_t Crc32cPortable(absl::string_view data);
}  // namespace internal

}  // namespace chord
