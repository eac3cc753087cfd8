#include "services/llm_worker/admission_policy.h"

#include <gtest/gtest.h>

namespace chord::llm_worker {
namespace {

AdmissionFacts CacheableImage() {
  AdmissionFacts facts;
  facts.has_image = true;
  facts.cacheable = true;
  facts.image_end = 100;
  return facts;
}

TEST(DecideAdmission, APromptWithoutAnImageStartsAtOnce) {
  EXPECT_EQ(DecideAdmission({}), Admission::kAdmit);
}

TEST(DecideAdmission, AnImageWithoutAKeyWaitsForItsOwnEmbeddings) {
  AdmissionFacts facts;
  facts.has_image = true;
  EXPECT_EQ(DecideAdmission(facts), Admission::kWaitForEmbeddings);
  facts.embeddings_arrived = true;
  EXPECT_EQ(DecideAdmission(facts), Admission::kAdmit);
}

TEST(DecideAdmission, AnythingCachedThatCoversTheImageWillDo) {
  AdmissionFacts facts = CacheableImage();
  EXPECT_EQ(DecideAdmission(facts), Admission::kWaitForEmbeddings);
  facts.cached_rows = 99;
  EXPECT_EQ(DecideAdmission(facts), Admission::kWaitForEmbeddings) << "one row is missing";
  facts.cached_rows = 100;
  EXPECT_EQ(DecideAdmission(facts), Admission::kAdmit);
  facts.cached_rows = 0;
  facts.embeddings_cached = true;
  EXPECT_EQ(DecideAdmission(facts), Admission::kAdmit);
}

TEST(DecideAdmission, WaitsForAPeerThatIsAboutToComputeTheImage) {
  AdmissionFacts facts = CacheableImage();
  facts.embeddings_cached = true;
  facts.peers = {{.shared_rows = 110, .valid_rows = 20, .has_embeddings = true}};
  EXPECT_EQ(DecideAdmission(facts), Admission::kWaitForPeer);
  facts.peers[0].valid_rows = 110;
  EXPECT_EQ(DecideAdmission(facts), Admission::kAdmit) << "it has inserted all that is shared";
}

TEST(DecideAdmission, WaitsForAPeersTextOnlyIfThatIsWorthIt) {
  AdmissionFacts facts = CacheableImage();
  facts.cached_rows = 100;
  facts.peers = {{.shared_rows = 131, .valid_rows = 100, .has_embeddings = true}};
  EXPECT_EQ(DecideAdmission(facts), Admission::kAdmit);
  facts.peers[0].shared_rows = 132;  // two pages
  EXPECT_EQ(DecideAdmission(facts), Admission::kWaitForPeer);
}

TEST(DecideAdmission, APeerWithoutEmbeddingsIsWaitedForOnlyWithoutOnesOwn) {
  AdmissionFacts facts = CacheableImage();
  facts.peers = {{.shared_rows = 110, .valid_rows = 0, .has_embeddings = false}};
  EXPECT_EQ(DecideAdmission(facts), Admission::kWaitForPeer);
  facts.embeddings_arrived = true;
  EXPECT_EQ(DecideAdmission(facts), Admission::kAdmit);
}

TEST(RejectOnArrival, OverTheQueueLimitAndWhenTheDeadlineCannotBeMet) {
  ArrivalFacts facts;
  facts.load = {.queued = 1, .running = 2, .slots = 2, .mean_service = absl::Seconds(1)};
  facts.max_queue = 1;
  facts.until_deadline = absl::InfiniteDuration();
  ASSERT_TRUE(RejectOnArrival(facts).has_value());
  EXPECT_GE(*RejectOnArrival(facts), absl::Milliseconds(100));
  facts.max_queue = 2;
  EXPECT_FALSE(RejectOnArrival(facts).has_value());
  facts.until_deadline = absl::Milliseconds(10);
  EXPECT_TRUE(RejectOnArrival(facts).has_value());
}

}  // namespace
}  // namespace chord::llm_worker
