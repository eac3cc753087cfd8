// A point of an answer where its list of boxes could have ended or continued.
#pragma once

#include <cstdint>

namespace chord {

// Natural log probabilities before any penalty or mask. They need not sum to one: the rest of the
// probability mass lies outside the grammar.
struct ListChoice {
  int64_t offset = 0;    // bytes of the answer before the choice
  double log_close = 0;  // the list ends here
  double log_more = 0;   // another box follows
};

}  // namespace chord
