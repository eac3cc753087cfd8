#pragma once

#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <utility>

namespace chord::http {

// One deadline that is moved often and seldom expires: moving it costs no system call unless it
// comes earlier. Used on the strand of its executor only.
//
// beast::tcp_stream has timeouts, but it closes the socket when one expires, and a client that is
// too slow is still told so (408); nor can its timeout be changed while a read is pending, as one
// is while a handler runs.
class DeadlineTimer {
 public:
  using Clock = std::chrono::steady_clock;

  template <typename Executor>
  explicit DeadlineTimer(const Executor& executor) : timer_(executor) {}

  // Calls `expired`, which belongs to `owner`, at `deadline`; replaces the earlier deadline.
  // `owner` is kept alive meanwhile.
  void Set(std::shared_ptr<void> owner, std::function<void()>* expired,
           Clock::time_point deadline) {
    deadline_ = deadline;
    if (!waiting_) {
      Wait(std::move(owner), expired);
    } else if (deadline_ < armed_) {
      timer_.cancel();  // its completion arms it again
    }
  }
  void Stop() {
    stopped_ = true;
    timer_.cancel();
  }

 private:
  void Wait(std::shared_ptr<void> owner, std::function<void()>* expired) {
    waiting_ = true;
    armed_ = deadline_;
    timer_.expires_at(deadline_);
    timer_.async_wait([this, owner, expired](boost::system::error_code) {
      waiting_ = false;
      if (stopped_) return;
      if (Clock::now() >= deadline_) {
        (*expired)();
      } else {
        Wait(owner, expired);
      }
    });
  }

  boost::asio::steady_timer timer_;
  Clock::time_point deadline_ = Clock::time_point::max();
  Clock::time_point armed_ = Clock::time_point::max();
  bool waiting_ = false;
  bool stopped_ = false;
};

}  // namespace chord::http
