#include "services/gateway/images/image_store.h"

#include <gtest/gtest.h>

#include <set>

#include "common/base/errors.h"
#include "tests/support/has_reason.h"

namespace chord::gateway {
namespace {

constexpr int64_t kEntry = ImageStore::kEntryBytes;
const absl::Time kStart = absl::FromUnixSeconds(1'000'000);
absl::Time At(double seconds) { return kStart + absl::Seconds(seconds); }

// A store by its actions; images are named by one letter.
class Shelf {
 public:
  explicit Shelf(int64_t bytes, double ttl = 100) : store_({bytes, absl::Seconds(ttl)}) {}

  absl::Status Put(const std::string& id, int64_t bytes, double at, bool uploaded = true,
                   bool pin = false) {
    auto image = std::make_shared<StoredImage>();
    image->id = id;
    image->bytes = std::string(static_cast<size_t>(bytes), 'x');
    image->pin = pin;
    std::vector<ImageStore::Removed> removed;
    const auto put = store_.Put(image, uploaded, ImageAffinity{"w", 1, true}, At(at), removed);
    Note(removed);
    return put.status();
  }
  bool Has(const std::string& id, double at) { return store_.Use(id, At(at)).has_value(); }
  bool Delete(const std::string& id, double at) {
    std::vector<ImageStore::Removed> removed;
    const bool there = store_.Delete(id, At(at), removed);
    Note(removed);
    return there;
  }
  void Sweep(double at) {
    std::vector<ImageStore::Removed> removed;
    store_.Sweep(At(at), removed);
    Note(removed);
  }
  // What was removed since the last call: "e" evicted, "x" expired, "d" deleted, then the name.
  std::string Removed() { return std::exchange(removed_, ""); }
  ImageStore& store() { return store_; }

 private:
  void Note(const std::vector<ImageStore::Removed>& removed) {
    for (const auto& one : removed) {
      EXPECT_EQ(one.affinity.worker, "w") << "who should drop it goes with it";
      removed_ += one.cause == ImageStore::Cause::kEvicted   ? "e"
                  : one.cause == ImageStore::Cause::kExpired ? "x"
                                                             : "d";
      removed_ += one.image->id + " ";
    }
  }
  ImageStore store_;
  std::string removed_;
};

TEST(ImageStore, EvictsTheLongestUnusedWhenTheBudgetIsFull) {
  Shelf shelf(3 * (1000 + kEntry));
  for (const char* id : {"a", "b", "c"}) ASSERT_TRUE(shelf.Put(id, 1000, 1).ok());
  EXPECT_TRUE(shelf.Has("a", 2));
  ASSERT_TRUE(shelf.Put("d", 1000, 3).ok());
  EXPECT_EQ(shelf.Removed(), "eb ");
  EXPECT_TRUE(shelf.Has("a", 4));
  EXPECT_FALSE(shelf.Has("b", 4));
  ASSERT_TRUE(shelf.Put("e", 2000, 5).ok());
  EXPECT_EQ(shelf.Removed(), "ec ed ");
  EXPECT_EQ(shelf.store().summary().images, 2);
}

TEST(ImageStore, WhatWasAskedAboutOnceGoesBeforeWhatWasUploaded) {
  Shelf shelf(4 * (1000 + kEntry));
  ASSERT_TRUE(shelf.Put("u", 1000, 1).ok());
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(shelf.Put("once" + std::to_string(i), 1000, 2 + i, /*uploaded=*/false).ok());
  }
  EXPECT_TRUE(shelf.Has("u", 30)) << "a stream of single prompts does not push it out";
  EXPECT_TRUE(shelf.Has("once19", 30));
  EXPECT_FALSE(shelf.Has("once15", 30));
}

TEST(ImageStore, UploadsLeaveAQuarterForFreshOnes) {
  Shelf shelf(4 * (1000 + kEntry));
  for (const char* id : {"a", "b", "c", "d"}) ASSERT_TRUE(shelf.Put(id, 1000, 1).ok());
  ASSERT_TRUE(shelf.Put("q", 1000, 2, /*uploaded=*/false).ok());
  EXPECT_EQ(shelf.Removed(), "ea ");
  EXPECT_TRUE(shelf.Has("q", 3));
}

TEST(ImageStore, PinnedOnesStayUnderPressureAndHaveHalfTheBudget) {
  Shelf shelf(4 * (1000 + kEntry));
  ASSERT_TRUE(shelf.Put("p", 1000, 1, true, /*pin=*/true).ok());
  ASSERT_TRUE(shelf.Put("q", 1000, 1, true, /*pin=*/true).ok());
  const absl::Status third = shelf.Put("r", 1000, 11, true, /*pin=*/true);
  EXPECT_THAT(third, HasReason(Reason::kImageStoreFull));
  EXPECT_EQ(RetryAfter(third), absl::Seconds(90)) << "when the first pin expires";
  for (int i = 0; i < 10; ++i) {
    ASSERT_TRUE(shelf.Put(std::string(1, static_cast<char>('a' + i)), 1000, 12).ok());
  }
  EXPECT_TRUE(shelf.Has("p", 13));
  EXPECT_TRUE(shelf.Has("q", 13));
  EXPECT_THAT(shelf.store().CheckRoom(4000, false, At(14)), HasReason(Reason::kImageStoreFull));
}

TEST(ImageStore, RefusesAFileThatCanNeverFitBeforeItIsTaken) {
  Shelf shelf(10'000);
  EXPECT_THAT(shelf.store().CheckRoom(10'000, false, At(0)), HasReason(Reason::kImageTooManyBytes));
  EXPECT_THAT(shelf.store().CheckRoom(5'000, true, At(0)), HasReason(Reason::kImageTooManyBytes));
  EXPECT_TRUE(shelf.store().CheckRoom(10'000 - kEntry, false, At(0)).ok());
  EXPECT_THAT(shelf.Put("a", 10'000, 0), HasReason(Reason::kImageTooManyBytes));
  EXPECT_EQ(shelf.store().summary().bytes, 0);
}

TEST(ImageStore, ExpiresAfterTheLastUse) {
  Shelf shelf(100'000, /*ttl=*/10);
  ASSERT_TRUE(shelf.Put("a", 1000, 0).ok());
  ASSERT_TRUE(shelf.Put("p", 1000, 0, true, /*pin=*/true).ok());
  EXPECT_TRUE(shelf.Has("a", 9));
  EXPECT_EQ(shelf.store().Use("a", At(9))->expires_at, At(19));
  EXPECT_FALSE(shelf.Has("p", 10)) << "pinned is not for ever";
  shelf.Sweep(18.9);
  EXPECT_EQ(shelf.Removed(), "xp ");
  shelf.Sweep(19);
  EXPECT_EQ(shelf.Removed(), "xa ");
  EXPECT_EQ(shelf.store().summary().bytes, 0);
}

TEST(ImageStore, DeletesOnceAndKeepsWhatIsInUse) {
  Shelf shelf(100'000, 10);
  ASSERT_TRUE(shelf.Put("a", 1000, 0).ok());
  const StoredImageRef used = shelf.store().Use("a", At(1))->image;
  EXPECT_TRUE(shelf.Delete("a", 2));
  EXPECT_FALSE(shelf.Delete("a", 2));
  EXPECT_EQ(shelf.Removed(), "da ");
  EXPECT_EQ(used->bytes.size(), 1000u);
  ASSERT_TRUE(shelf.Put("b", 1000, 3).ok());
  EXPECT_FALSE(shelf.Delete("b", 20)) << "expired, though not swept yet";
  EXPECT_EQ(shelf.Removed(), "xb ");
}

TEST(ImageStore, AccountsForEveryByteInAnyOrderOfActions) {
  Shelf shelf(20 * (500 + kEntry), 50);
  uint32_t random = 1;
  std::set<std::string> ids;
  for (int step = 0; step < 5000; ++step) {
    random = random * 1664525 + 1013904223;
    const std::string id(1, static_cast<char>('A' + random / 65536 % 40));
    const uint32_t action = random / 4096 % 8;
    if (action < 3 && !shelf.store().Use(id, At(step)).has_value()) {
      shelf.Delete(id, step);
      (void)shelf.Put(id, static_cast<int64_t>(random / 512 % 1500), step, action > 0,
                      action == 2 && random % 3 == 0);
    } else if (action < 6) {
      shelf.Has(id, step);
    } else if (action == 6) {
      shelf.Delete(id, step);
    } else {
      shelf.Sweep(step);
    }
    ASSERT_LE(shelf.store().summary().bytes, 20 * (500 + kEntry));
    ASSERT_GE(shelf.store().summary().bytes, shelf.store().summary().images * kEntry);
  }
  for (char c = 'A'; c < 'A' + 40; ++c) shelf.Delete(std::string(1, c), 5000);
  EXPECT_EQ(shelf.store().summary().bytes, 0);
  EXPECT_EQ(shelf.store().summary().images, 0);
}

image::FramePlan Plan(int width, int height) {
  const auto plan = image::PlanFrame({image::Format::kPng, width, height, 1}, {});
  EXPECT_TRUE(plan.ok());
  return *plan;
}

TEST(ImageKey, DiffersInEverythingThatMakesAnotherImage) {
  const std::string digest(32, 'd'), other(32, 'e');
  const image::FramePlan plan = Plan(640, 480);
  image::FramePlan turned = plan;
  turned.orientation = 3;
  const std::set<std::string> keys = {
      ImageKey("img_a", digest, plan, "model"),
      ImageKey("img_b", digest, plan, "model"),                  // another tenant's
      ImageKey("img_a", other, plan, "model"),                   // other bytes
      ImageKey("img_a", digest, Plan(480, 640), "model"),        // as many pixels, swapped sides
      ImageKey("img_a", digest, turned, "model"),                // the same size, turned
      ImageKey("img_a", digest, plan, "model2"),                 // another model
      ImageKey("img_ad", std::string(31, 'd'), plan, "model")};  // fields do not run together
  EXPECT_EQ(keys.size(), 7u);
  for (const std::string& key : keys) EXPECT_EQ(key.size(), 32u);
  EXPECT_EQ(ImageKey("img_a", digest, plan, "model"), ImageKey("img_a", digest, plan, "model"));
}

TEST(ImageId, IsRandomAndHasOneForm) {
  std::set<std::string> ids;
  for (int i = 0; i < 1000; ++i) ids.insert(NewImageId());
  EXPECT_EQ(ids.size(), 1000u);
  EXPECT_TRUE(IsImageId(*ids.begin()));
  for (const char* bad : {"", "img_", "img_0123", "0123456789abcdef0123456789abcdef",
                          "img_0123456789ABCDEF0123456789ABCDEF", "../etc"}) {
    EXPECT_FALSE(IsImageId(bad)) << bad;
  }
}

}  // namespace
}  // namespace chord::gateway
