#include "services/gateway/retry_policy.h"

#include <gtest/gtest.h>

#include "common/base/errors.h"

namespace chord::gateway {
namespace {

AttemptFacts Lost() {
  AttemptFacts out;
  out.failure = {.status = errors::WorkerLost("language"),
                 .where = WorkerFailure::Where::kLanguage,
                 .worker_lost = true};
  return out;
}

TEST(MayRetry, OnceWhenAWorkerWasLostBeforeTheClientSawAnything) {
  EXPECT_TRUE(MayRetry(Lost()));
  AttemptFacts facts = Lost();
  facts.produced = true;
  EXPECT_FALSE(MayRetry(facts));
  facts = Lost();
  facts.cancelled = true;
  EXPECT_FALSE(MayRetry(facts));
  facts = Lost();
  facts.retries = 1;
  EXPECT_FALSE(MayRetry(facts));
  facts = Lost();
  facts.answered = true;
  EXPECT_FALSE(MayRetry(facts));
  facts = Lost();
  facts.failure.worker_lost = false;
  EXPECT_FALSE(MayRetry(facts));
}

TEST(OutgrowsModel, KnowsTheReasonsThatAShorterConversationMayCure) {
  EXPECT_TRUE(OutgrowsModel(errors::ContextLimit(9, 8)));
  EXPECT_TRUE(OutgrowsModel(errors::PromptTokensLimit(9, 8)));
  EXPECT_FALSE(OutgrowsModel(errors::PromptBytesLimit(9, 8)));
  EXPECT_FALSE(OutgrowsModel(absl::OkStatus()));
}

}  // namespace
}  // namespace chord::gateway
