// EXPECT_THAT(status, HasReason(Reason::kOverloaded)).
#pragma once

#include <gmock/gmock.h>

#include <string>

#include "absl/status/status.h"
#include "common/base/errors.h"

namespace chord {

// `arg`: an absl::Status of the catalogue. On failure the reason and the text are shown.
MATCHER_P(HasReason, reason,
          (negation ? "has another reason than " : "has the reason ") + std::string(Name(reason))) {
  const absl::Status& status = arg;
  *result_listener << "has " << (status.ok() ? std::string("none: OK") : ErrorReason(status))
                   << ": " << std::string(status.message());
  return errors::Is(status, reason);
}

}  // namespace chord
