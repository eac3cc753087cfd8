#include "services/cli/mcp/session.h"

#include <gtest/gtest.h>

#include <deque>
#include <utility>

#include "services/cli/mcp/tools.h"

namespace chord::cli::mcp {
namespace {

// A session whose calls wait until the test runs them.
class SessionTest : public testing::Test {
 protected:
  SessionTest()
      : session_({.version = "1.2.3",
                  .tools = ToolList(),
                  .has_tool = &Tools::Has,
                  .call_tool =
                      [this](const std::string& name, const Json& arguments) {
                        ++called_;
                        return Json{{"content", {name, arguments}}, {"structuredContent", 1}};
                      },
                  .run =
                      [this](std::function<void()> task) {
                        if (full_) return false;
                        waiting_.push_back(std::move(task));
                        return true;
                      },
                  .send = [this](const Json& message) { sent_.push_back(message); }}) {}

  void Start(const std::string& version) {
    session_.Handle({{"jsonrpc", "2.0"},
                     {"id", 0},
                     {"method", "initialize"},
                     {"params", {{"protocolVersion", version}}}});
    ASSERT_EQ(sent_.size(), 1u);
    sent_.clear();
  }
  void Call(const Json& id) {
    session_.Handle({{"jsonrpc", "2.0"},
                     {"id", id},
                     {"method", "tools/call"},
                     {"params", {{"name", "locate"}, {"arguments", {{"a", 1}}}}}});
  }
  void Cancel(const Json& id) {
    session_.Handle({{"jsonrpc", "2.0"},
                     {"method", "notifications/cancelled"},
                     {"params", {{"requestId", id}}}});
  }
  void RunNext() {
    const std::function<void()> task = std::move(waiting_.front());
    waiting_.pop_front();
    task();
  }

  Session session_;
  std::deque<std::function<void()>> waiting_;
  std::vector<Json> sent_;
  int called_ = 0;
  bool full_ = false;
};

TEST_F(SessionTest, CallsAreAnsweredInTheOrderInWhichTheyEnd) {
  Start("2025-06-18");
  Call("a");
  Call("b");
  std::swap(waiting_[0], waiting_[1]);
  RunNext();
  RunNext();
  ASSERT_EQ(sent_.size(), 2u);
  EXPECT_EQ(sent_[0]["id"], "b");
  EXPECT_EQ(sent_[1]["id"], "a");
  EXPECT_EQ(sent_[0]["result"]["content"], Json({"locate", {{"a", 1}}}));
  EXPECT_EQ(sent_[0]["result"]["structuredContent"], 1);
}

TEST_F(SessionTest, OlderVersionsHaveNoStructuredContent) {
  Start("2025-03-26");
  Call(1);
  RunNext();
  EXPECT_FALSE(sent_.at(0)["result"].contains("structuredContent"));
}

TEST_F(SessionTest, ACallThatIsCancelledBeforeItBeginsDoesNotRun) {
  Start("2024-11-05");
  Call(1);
  Cancel(1);
  RunNext();
  EXPECT_EQ(called_, 0);
  EXPECT_TRUE(sent_.empty());
}

TEST_F(SessionTest, TheIdOfACallUnderWayIsRefusedAndFreeAfterwards) {
  Start("2025-06-18");
  Call(1);
  Call(1);
  EXPECT_EQ(sent_.at(0)["error"]["code"], -32600);
  RunNext();
  Call(1);
  EXPECT_EQ(waiting_.size(), 1u);
  Call("1");  // another id
  EXPECT_EQ(waiting_.size(), 2u);
}

TEST_F(SessionTest, ARefusedCallCanBeSentAgain) {
  Start("2025-06-18");
  full_ = true;
  Call(1);
  EXPECT_EQ(sent_.at(0)["error"]["code"], -32000);
  full_ = false;
  Call(1);
  RunNext();
  EXPECT_EQ(sent_.at(1)["id"], 1);
  EXPECT_TRUE(sent_.at(1).contains("result"));
}

TEST_F(SessionTest, ABatchIsAnsweredWhenItsLastCallEnds) {
  Start("2025-03-26");
  const auto call = [](int id) {
    return Json{
        {"jsonrpc", "2.0"}, {"id", id}, {"method", "tools/call"}, {"params", {{"name", "zoom"}}}};
  };
  session_.Handle(Json::array({call(1), call(2)}));
  RunNext();
  EXPECT_TRUE(sent_.empty());
  RunNext();
  ASSERT_EQ(sent_.size(), 1u);
  EXPECT_EQ(sent_[0].size(), 2u);
}

TEST_F(SessionTest, ABatchOfNotificationsHasNoAnswer) {
  Start("2025-03-26");
  session_.Handle(Json::array({{{"jsonrpc", "2.0"}, {"method", "notifications/x"}}}));
  EXPECT_TRUE(sent_.empty());
}

}  // namespace
}  // namespace chord::cli::mcp
