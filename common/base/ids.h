// Random identifiers. Request ids name a request in logs and answers; ticket ids also keep a
// stranger from pushing embeddings into somebody else's request, so they come from the kernel's
// random source.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace chord {

std::string NewRequestId();  // "req_" + 24 lower-case hex digits
std::string NewTicketId();   // 32 lower-case hex digits (128 bit)
bool IsTicketId(absl::string_view text);

}  // namespace chord
