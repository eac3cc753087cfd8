#include "services/llm_worker/stop_scan.h"

#include <gtest/gtest.h>

namespace chord::llm_worker {
namespace {

// What a client has been told, and whether the answer was stopped, after the pieces have come.
std::string Told(const std::vector<std::string>& pieces, const std::vector<std::string>& stops) {
  std::string text;
  size_t released = 0;
  for (const std::string& piece : pieces) {
    text += piece;
    const StopScan scan = ScanForStop(text, released, stops);
    EXPECT_GE(scan.release, released);
    EXPECT_LE(scan.release, text.size());
    released = scan.release;
    if (scan.stopped) return text.substr(0, released) + "|";
  }
  return text.substr(0, released);
}

TEST(ScanForStop, ReleasesAllWithoutStops) { EXPECT_EQ(Told({"ab", "c"}, {}), "abc"); }

TEST(ScanForStop, EndsBeforeTheFirstStop) {
  EXPECT_EQ(Told({"a cup and"}, {"and", "cup"}), "a |");
  EXPECT_EQ(Told({"END"}, {"END"}), "|");
}

TEST(ScanForStop, FindsAStopThatComesInPieces) {
  EXPECT_EQ(Told({"a E", "N", "D b"}, {"END"}), "a |");
  EXPECT_EQ(Told({"aa", "aab"}, {"aab"}), "aa|");
}

TEST(ScanForStop, HoldsBackWhatMayBeginOne) {
  EXPECT_EQ(Told({"a EN"}, {"END"}), "a ");
  EXPECT_EQ(Told({"a EN", "E"}, {"END"}), "a EN");  // the second E may begin one
  EXPECT_EQ(Told({"a EN", "X"}, {"END"}), "a ENX");
}

}  // namespace
}  // namespace chord::llm_worker
