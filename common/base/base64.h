#pragma once

#include <string>

namespace chord {

// The forgiving-base64 decode of the WHATWG Infra standard, in place and linear: ASCII white space
// is skipped, padding is optional, left-over bits are dropped. False, and `text` is unspecified,
// when it is not base64.
bool DecodeForgivingBase64(std::string& text);

}  // namespace chord
