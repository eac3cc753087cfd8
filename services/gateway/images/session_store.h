// Conversations: the prompts about one image and what the model answered, word for word, so that
// the next prompt continues the very text whose KV the worker has. Pure but for its lock.
//
// A session_id is a name inside one image: the same name with another image is another
// conversation, so nothing ever crosses from image to image, nor between two who chose the same
// name (handles of images are secrets). One prompt of a conversation at a time: the next may
// depend on its answer.
#pragma once

#include <cstdint>
#include <list>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "common/base/limits.h"

namespace chord::gateway {

struct SessionTurn {
  std::string prompt;  // as sent to the model
  std::string answer;  // as the model wrote it
};

// At most 64 characters of [A-Za-z0-9_-], at least one.
bool IsSessionId(absl::string_view text);

// Thread-safe.
class SessionStore {
 public:
  struct Options {
    int max_sessions = 1000;
    int max_turns = limits::kMaxSessionTurns;
    int64_t max_bytes = limits::kMaxSessionBytes;  // of one conversation's turns
    absl::Duration ttl = absl::Minutes(10);        // after its last prompt
  };
  explicit SessionStore(const Options& options) : options_(options) {}

  struct Begun {
    std::vector<SessionTurn> turns;  // oldest first
    bool created = false;
    int expired = 0, evicted = 0;  // others that went
  };
  // Takes the conversation for one prompt; End must follow. SESSION_BUSY while another prompt
  // of it is being answered; OVERLOADED when all sessions there may be are being asked.
  absl::StatusOr<Begun> Begin(absl::string_view session_id, absl::string_view image_id,
                              absl::Time now);

  // Returns it, with its new turns; none: the prompt failed and leaves no trace (a
  // conversation without turns goes). `drop` of its oldest turns did not fit the model any more
  // and go; so do turns beyond the bounds, the oldest first.
  void End(absl::string_view session_id, absl::string_view image_id,
           absl::Span<const SessionTurn> new_turns, size_t drop, absl::Time now);

  // Forgets every conversation about the image; one that is being asked when its prompt ends.
  void DropImage(absl::string_view image_id);
  // Forgets what has expired; returns how many.
  int Sweep(absl::Time now);
  int64_t size() const;

 private:
  struct Session {
    std::string key;
    std::string image_id;
    std::vector<SessionTurn> turns;
    absl::Time last_use;
    bool busy = false;
    bool dropped = false;
  };
  using List = std::list<Session>;  // least recently used first

  void Erase(List::iterator session) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  int SweepLocked(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Options options_;
  mutable absl::Mutex mu_;
  List sessions_ ABSL_GUARDED_BY(mu_);
  std::unordered_map<std::string, List::iterator> by_key_ ABSL_GUARDED_BY(mu_);
};

}  // namespace chord::gateway
