#include "common/process/service_manager.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "absl/strings/str_cat.h"

namespace chord::process {
namespace {

class ServiceManagerTest : public testing::Test {
 protected:
  ServiceManagerTest() : path_(absl::StrCat(testing::TempDir(), "/notify-", getpid())) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strcpy(address.sun_path, path_.c_str());
    unlink(path_.c_str());
    fd_ = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  ~ServiceManagerTest() override {
    close(fd_);
    unlink(path_.c_str());
  }
  std::string Receive() {
    char buffer[256];
    const ssize_t n = recv(fd_, buffer, sizeof(buffer), 0);
    return n < 0 ? "" : std::string(buffer, static_cast<size_t>(n));
  }

  const std::string path_;
  int fd_;
};

TEST_F(ServiceManagerTest, SpeaksTheProtocolAndTakesTheVariablesAway) {
  setenv("NOTIFY_SOCKET", path_.c_str(), 1);
  setenv("WATCHDOG_USEC", "4000000", 1);
  setenv("WATCHDOG_PID", absl::StrCat(getpid()).c_str(), 1);
  const ServiceManager manager = ServiceManager::FromEnvironment();
  for (const char* name : {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}) {
    EXPECT_EQ(getenv(name), nullptr) << name;
  }
  EXPECT_EQ(manager.alive_every(), absl::Seconds(2));
  manager.Ready("serving");
  EXPECT_EQ(Receive(), "READY=1\nSTATUS=serving");
  manager.Status("a worker restarts");
  EXPECT_EQ(Receive(), "STATUS=a worker restarts");
  manager.Alive();
  EXPECT_EQ(Receive(), "WATCHDOG=1");
  manager.Stopping("draining");
  EXPECT_EQ(Receive(), "STOPPING=1\nSTATUS=draining");
}

TEST_F(ServiceManagerTest, AWatchdogOfAnotherProcessIsNotOurs) {
  setenv("WATCHDOG_USEC", "4000000", 1);
  setenv("WATCHDOG_PID", "1", 1);
  EXPECT_EQ(ServiceManager::FromEnvironment().alive_every(), absl::InfiniteDuration());
}

TEST_F(ServiceManagerTest, AManagerThatDoesNotReadHoldsNothingUp) {
  const ServiceManager manager(path_, absl::Seconds(1));
  for (int i = 0; i < 10'000; ++i) manager.Alive();
  EXPECT_EQ(Receive(), "WATCHDOG=1");
  ServiceManager("/nonexistent/socket", absl::Seconds(1)).Ready("x");
  ServiceManager().Ready("x");
}

}  // namespace
}  // namespace chord::process
