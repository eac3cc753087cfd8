#include "common/base/ids.h"

#include <openssl/rand.h>

#include <cstdlib>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace chord {
namespace {
std::string RandomHex(int bytes) {
  std::string raw(bytes, '\0');
  // Without random numbers no id is safe; there is no degraded mode worth having.
  if (RAND_bytes(reinterpret_cast<unsigned char*>(raw.data()), bytes) != 1) std::abort();
  return absl::BytesToHexString(raw);
}
}  // namespace

std::string NewRequestId() { return absl::StrCat("req_", RandomHex(12)); }
std::string NewTicketId() { return RandomHex(16); }

bool IsTicketId(absl::string_view text) {
  if (text.size() != 32) return false;
  for (char c : text) {
    if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return false;
  }
  return true;
}

}  // namespace chord
