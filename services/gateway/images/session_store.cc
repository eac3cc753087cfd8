#include "services/gateway/images/session_store.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/errors.h"

namespace chord::gateway {
namespace {

// Neither part can hold a blank.
std::string Key(absl::string_view session_id, absl::string_view image_id) {
  return absl::StrCat(session_id, " ", image_id);
}

int64_t Bytes(const SessionTurn& turn) {
  return static_cast<int64_t>(turn.prompt.size() + turn.answer.size());
}

}  // namespace

bool IsSessionId(absl::string_view text) {
  return !text.empty() && text.size() <= limits::kMaxSessionIdBytes &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || c == '_' || c == '-';
         });
}

absl::StatusOr<SessionStore::Begun> SessionStore::Begin(absl::string_view session_id,
                                                        absl::string_view image_id,
                                                        absl::Time now) {
  Begun out;
  absl::MutexLock lock(&mu_);
  out.expired = SweepLocked(now);
  const std::string key = Key(session_id, image_id);
  if (const auto found = by_key_.find(key); found != by_key_.end()) {
    Session& session = *found->second;
    if (session.busy) return errors::SessionBusy();
    session.busy = true;
    session.last_use = now;
    out.turns = session.turns;
    sessions_.splice(sessions_.end(), sessions_, found->second);
    return out;
  }
  if (static_cast<int>(sessions_.size()) >= options_.max_sessions) {
    const auto victim = std::find_if(sessions_.begin(), sessions_.end(),
                                     [](const Session& session) { return !session.busy; });
    if (victim == sessions_.end()) return errors::Overloaded(absl::Seconds(1));
    Erase(victim);
    ++out.evicted;
  }
  sessions_.push_back({key, std::string(image_id), {}, now, true, false});
  by_key_[key] = std::prev(sessions_.end());
  out.created = true;
  return out;
}

void SessionStore::End(absl::string_view session_id, absl::string_view image_id,
                       absl::Span<const SessionTurn> new_turns, size_t drop, absl::Time now) {
  absl::MutexLock lock(&mu_);
  const auto found = by_key_.find(Key(session_id, image_id));
  if (found == by_key_.end()) return;
  Session& session = *found->second;
  session.busy = false;
  session.last_use = now;
  sessions_.splice(sessions_.end(), sessions_, found->second);
  if (!new_turns.empty()) {
    session.turns.erase(
        session.turns.begin(),
        session.turns.begin() + static_cast<std::ptrdiff_t>(std::min(drop, session.turns.size())));
    session.turns.insert(session.turns.end(), new_turns.begin(), new_turns.end());
  }
  if (session.turns.empty() || session.dropped) return Erase(found->second);
  int64_t bytes = 0;
  size_t keep = 0;
  for (auto kept = session.turns.rbegin(); kept != session.turns.rend(); ++kept, ++keep) {
    bytes += Bytes(*kept);
    if (bytes > options_.max_bytes || keep >= static_cast<size_t>(options_.max_turns)) break;
  }
  session.turns.erase(session.turns.begin(),
                      session.turns.end() - static_cast<std::ptrdiff_t>(keep));
  if (session.turns.empty()) Erase(found->second);
}

void SessionStore::DropImage(absl::string_view image_id) {
  absl::MutexLock lock(&mu_);
  for (auto at = sessions_.begin(); at != sessions_.end();) {
    const auto session = at++;
    if (session->image_id != image_id) continue;
    if (session->busy) {
      session->dropped = true;
    } else {
      Erase(session);
    }
  }
}

int SessionStore::Sweep(absl::Time now) {
  absl::MutexLock lock(&mu_);
  return SweepLocked(now);
}

int64_t SessionStore::size() const {
  absl::MutexLock lock(&mu_);
  return static_cast<int64_t>(sessions_.size());
}

void SessionStore::Erase(List::iterator session) {
  by_key_.erase(session->key);
  sessions_.erase(session);
}

int SessionStore::SweepLocked(absl::Time now) {
  int swept = 0;
  for (auto at = sessions_.begin(); at != sessions_.end() && now >= at->last_use + options_.ttl;) {
    const auto session = at++;
    if (session->busy) continue;
    Erase(session);
    ++swept;
  }
  return swept;
}

}  // namespace chord::gateway
