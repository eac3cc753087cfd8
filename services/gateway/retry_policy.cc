#include "services/gateway/retry_policy.h"

#include "common/base/errors.h"

namespace chord::gateway {

bool OutgrowsModel(const absl::Status& status) {
  return errors::Is(status, Reason::kContextTooLong) ||
         errors::Is(status, Reason::kPromptTooManyTokens);
}

}  // namespace chord::gateway
