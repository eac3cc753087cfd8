#include "services/gateway/images/session_store.h"

#include <gtest/gtest.h>

#include "common/base/errors.h"
#include "tests/support/has_reason.h"

namespace chord::gateway {
namespace {

absl::Time At(double seconds) { return absl::FromUnixSeconds(1'000'000) + absl::Seconds(seconds); }

// One prompt and its answer; returns how many turns came before.
int Send(SessionStore& store, const std::string& session, const std::string& image, double at,
         const std::string& prompt = "q", const std::string& answer = "a") {
  const auto begun = store.Begin(session, image, At(at));
  if (!begun.ok()) return -1;
  const SessionTurn turn = {prompt, answer};
  store.End(session, image, {turn}, 0, At(at));
  return static_cast<int>(begun->turns.size());
}

TEST(SessionStore, KeepsTurnsWordForWordInOrder) {
  SessionStore store({});
  EXPECT_EQ(Send(store, "s", "p", 0, "where?", "[{\"bbox_2d\": [1, 2, 3, 4]}]"), 0);
  EXPECT_EQ(Send(store, "s", "p", 1, "and now?", "[]"), 1);
  const auto begun = store.Begin("s", "p", At(2));
  ASSERT_TRUE(begun.ok());
  EXPECT_FALSE(begun->created);
  ASSERT_EQ(begun->turns.size(), 2u);
  EXPECT_EQ(begun->turns[0].prompt, "where?");
  EXPECT_EQ(begun->turns[0].answer, "[{\"bbox_2d\": [1, 2, 3, 4]}]");
  EXPECT_EQ(begun->turns[1].prompt, "and now?");
}

TEST(SessionStore, ANameIsOneConversationForEachImage) {
  SessionStore store({});
  EXPECT_EQ(Send(store, "1", "p", 0), 0);
  EXPECT_EQ(Send(store, "1", "q", 0), 0);
  EXPECT_EQ(Send(store, "1", "p", 0), 1);
  store.DropImage("p");
  EXPECT_EQ(Send(store, "1", "p", 0), 0);
  EXPECT_EQ(Send(store, "1", "q", 0), 1);
}

TEST(SessionStore, TakesOneRequestAtATime) {
  SessionStore store({});
  ASSERT_TRUE(store.Begin("s", "p", At(0)).ok());
  EXPECT_THAT(store.Begin("s", "p", At(0)).status(), HasReason(Reason::kSessionBusy));
  EXPECT_TRUE(store.Begin("t", "p", At(0)).ok());
  const SessionTurn turn = {"q", "a"};
  store.End("s", "p", {turn}, 0, At(1));
  EXPECT_TRUE(store.Begin("s", "p", At(1)).ok());
}

TEST(SessionStore, AFailedRequestLeavesNoTrace) {
  SessionStore store({});
  ASSERT_TRUE(store.Begin("s", "p", At(0)).ok());
  store.End("s", "p", {}, 0, At(0));
  EXPECT_EQ(store.size(), 0);
  EXPECT_EQ(Send(store, "s", "p", 1), 0);
  ASSERT_TRUE(store.Begin("s", "p", At(2)).ok());
  store.End("s", "p", {}, 1, At(2));
  EXPECT_EQ(Send(store, "s", "p", 3), 1) << "nor does it drop what was there";
}

TEST(SessionStore, ForgetsTheOldestTurnsBeyondItsBounds) {
  SessionStore::Options options;
  options.max_turns = 3;
  options.max_bytes = 100;
  SessionStore store(options);
  for (int i = 0; i < 5; ++i) Send(store, "s", "p", i, std::to_string(i));
  auto begun = store.Begin("s", "p", At(9));
  ASSERT_EQ(begun->turns.size(), 3u);
  EXPECT_EQ(begun->turns[0].prompt, "2");
  const SessionTurn big = {std::string(60, 'x'), std::string(39, 'y')};
  store.End("s", "p", {big}, 0, At(9));
  begun = store.Begin("s", "p", At(9));
  ASSERT_EQ(begun->turns.size(), 1u);
  const SessionTurn huge = {std::string(60, 'x'), std::string(60, 'y')};
  store.End("s", "p", {huge}, 0, At(9));
  EXPECT_EQ(store.size(), 0) << "what cannot be continued is not kept";
}

TEST(SessionStore, ForgetsWhatNoLongerFitsTheModel) {
  SessionStore store({});
  for (int i = 0; i < 4; ++i) Send(store, "s", "p", i, std::to_string(i));
  ASSERT_TRUE(store.Begin("s", "p", At(5)).ok());
  const SessionTurn turn = {"new", "a"};
  store.End("s", "p", {turn}, 3, At(5));
  const auto begun = store.Begin("s", "p", At(6));
  ASSERT_EQ(begun->turns.size(), 2u);
  EXPECT_EQ(begun->turns[0].prompt, "3");
  EXPECT_EQ(begun->turns[1].prompt, "new");
}

TEST(SessionStore, IsBoundedInNumberAndTime) {
  SessionStore::Options options;
  options.max_sessions = 2;
  options.ttl = absl::Seconds(10);
  SessionStore store(options);
  Send(store, "a", "p", 0);
  Send(store, "b", "p", 1);
  EXPECT_EQ(Send(store, "a", "p", 2), 1);
  EXPECT_EQ(Send(store, "c", "p", 3), 0);
  EXPECT_EQ(store.size(), 2);
  EXPECT_EQ(Send(store, "a", "p", 4), 2) << "the longest unused went";
  EXPECT_EQ(store.Sweep(At(13)), 1);
  EXPECT_EQ(Send(store, "a", "p", 14), 0);
  ASSERT_TRUE(store.Begin("x", "p", At(30)).ok());
  ASSERT_TRUE(store.Begin("y", "p", At(30)).ok());
  EXPECT_THAT(store.Begin("z", "p", At(30)).status(), HasReason(Reason::kOverloaded));
  EXPECT_EQ(store.Sweep(At(100)), 0) << "one that is being asked does not expire";
}

TEST(SessionStore, AImageThatGoesTakesItsConversationWhenItsRequestEnds) {
  SessionStore store({});
  Send(store, "s", "p", 0);
  ASSERT_TRUE(store.Begin("s", "p", At(1)).ok());
  store.DropImage("p");
  const SessionTurn turn = {"q", "a"};
  store.End("s", "p", {turn}, 0, At(2));
  EXPECT_EQ(store.size(), 0);
}

TEST(SessionId, HasOneForm) {
  EXPECT_TRUE(IsSessionId("a-B_9"));
  EXPECT_TRUE(IsSessionId(std::string(64, 'x')));
  for (const std::string& bad : {std::string(), std::string(65, 'x'), std::string("a b"),
                                 std::string("ü"), std::string("a\0", 2), std::string("../x")}) {
    EXPECT_FALSE(IsSessionId(bad)) << bad;
  }
}

}  // namespace
}  // namespace chord::gateway
