// A thread that calls one function at a fixed pace until it is destroyed: expiry, stalls, status.
#pragma once

#include <functional>
#include <thread>

#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

namespace chord::process {

class PeriodicTask {
 public:
  PeriodicTask(absl::Duration period, std::function<void()> fn)
      : thread_([this, period, fn = std::move(fn)] {
          while (!stop_.WaitForNotificationWithTimeout(period)) fn();
        }) {}
  ~PeriodicTask() {
    stop_.Notify();
    thread_.join();
  }

 private:
  absl::Notification stop_;
  std::thread thread_;  // last: it reads stop_
};

}  // namespace chord::process
