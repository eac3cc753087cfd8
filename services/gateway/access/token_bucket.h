// A pace with room for bursts. Pure: the time is given.
#pragma once

#include <algorithm>

#include "absl/time/time.h"

namespace chord::gateway {

// Not thread-safe.
class TokenBucket {
 public:
  // Full at first.
  TokenBucket(double per_second, double burst)
      : per_second_(per_second), burst_(burst), tokens_(burst) {}

  // Takes one token when there is one. Otherwise says how long until there is one.
  bool Take(absl::Time now, absl::Duration* wait) {
    Fill(now);
    if (tokens_ >= 1) {
      tokens_ -= 1;
      return true;
    }
    *wait = absl::Seconds((1 - tokens_) / per_second_);
    return false;
  }
  bool Has(absl::Time now) {
    Fill(now);
    return tokens_ >= 1;
  }
  bool IsFull(absl::Time now) {
    Fill(now);
    return tokens_ >= burst_;
  }

 private:
  // A clock that steps back fills nothing.
  void Fill(absl::Time now) {
    if (now > filled_) {
      if (filled_ != absl::InfinitePast()) {
        tokens_ = std::min(burst_, tokens_ + per_second_ * absl::ToDoubleSeconds(now - filled_));
      }
      filled_ = now;
    }
  }

  double per_second_, burst_, tokens_;
  absl::Time filled_ = absl::InfinitePast();
};

}  // namespace chord::gateway
