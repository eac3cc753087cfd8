#include "common/model/safetensors.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "common/base/errors.h"
#include "common/base/limits.h"
#include "tests/common/model/model_folder.h"
#include "tests/support/has_reason.h"

namespace chord::model {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

absl::StatusOr<SafetensorsHeader> Parse(const std::string& file) {
  return ParseSafetensors(
      absl::MakeConstSpan(reinterpret_cast<const std::byte*>(file.data()), file.size()));
}

absl::StatusOr<SafetensorsHeader> ParseHeader(absl::string_view header, size_t data_bytes) {
  return Parse(SafetensorsBytes(header, data_bytes));
}

void ExpectRefused(const absl::StatusOr<SafetensorsHeader>& parsed, absl::string_view why) {
  ASSERT_FALSE(parsed.ok()) << "accepted; expected: " << why;
  EXPECT_THAT(parsed.status(), HasReason(Reason::kCheckpointInvalid));
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(std::string(why)));
}

std::string Entry(absl::string_view dtype, absl::string_view shape, absl::string_view offsets) {
  return absl::StrCat(R"({"t":{"dtype":")", dtype, R"(","shape":)", shape, R"(,"data_offsets":)",
                      offsets, "}}");
}

TEST(SafetensorsTest, ReadsTensorsInTheOrderOfTheirData) {
  const auto parsed = ParseHeader(R"({"__metadata__":{"format":"pt"},)"
                                  R"("b":{"data_offsets":[8,12],"dtype":"BF16","shape":[2,1]},)"
                                  R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}   )",
                                  12);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  ASSERT_EQ(parsed->tensors.size(), 2u);
  EXPECT_EQ(parsed->tensors[0].name, "a");
  EXPECT_EQ(parsed->tensors[0].dtype, DType::kFloat32);
  EXPECT_EQ(parsed->tensors[1].name, "b");
  EXPECT_THAT(parsed->tensors[1].shape, ElementsAre(2, 1));
  EXPECT_EQ(parsed->tensors[1].begin, 8);
}

TEST(SafetensorsTest, TakesScalarsEmptyTensorsAndAnEmptyFile) {
  const auto parsed = ParseHeader(R"({"e":{"dtype":"F16","shape":[3,0],"data_offsets":[0,0]},)"
                                  R"("s":{"dtype":"I64","shape":[],"data_offsets":[0,8]}})",
                                  8);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->tensors[1].dtype, DType::kInt64);
  const auto empty = ParseHeader("{}", 0);
  ASSERT_TRUE(empty.ok()) << empty.status();
  EXPECT_THAT(empty->tensors, IsEmpty());
}

TEST(SafetensorsTest, RefusesFilesShorterThanTheirHeader) {  // rows 1 and 2
  ExpectRefused(Parse(""), "too short");
  ExpectRefused(Parse("1234567"), "too short");
  for (const uint64_t size : {uint64_t{3}, uint64_t{1} << 20}) {
    std::string file = SafetensorsBytes("{}", 0);
    std::memcpy(file.data(), &size, sizeof(size));
    ExpectRefused(Parse(file), "behind the end");
  }
  for (const uint64_t size : {uint64_t{100'000'001}, std::numeric_limits<uint64_t>::max(),
                              std::numeric_limits<uint64_t>::max() - 7}) {
    std::string file = SafetensorsBytes("{}", 0);
    std::memcpy(file.data(), &size, sizeof(size));
    ExpectRefused(Parse(file), "over 100000000 bytes");
  }
}

TEST(SafetensorsTest, RefusesEveryCutOfAGoodFile) {
  const std::string file =
      SafetensorsBytes(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8);
  ASSERT_TRUE(Parse(file).ok());
  for (size_t size = 0; size < file.size(); ++size) {
    EXPECT_FALSE(Parse(file.substr(0, size)).ok()) << size;
  }
  EXPECT_FALSE(Parse(file + "x").ok());
}

TEST(SafetensorsTest, RefusesHeadersThatAreNotOneJsonObject) {  // row 3
  ExpectRefused(ParseHeader("", 0), "'{'");
  ExpectRefused(ParseHeader(" {}", 0), "'{'");
  ExpectRefused(ParseHeader("[]", 0), "'{'");
  ExpectRefused(ParseHeader("{", 0), "not valid JSON");
  ExpectRefused(ParseHeader("{}{}", 0), "not valid JSON");
  ExpectRefused(ParseHeader("{}x", 0), "not valid JSON");
  ExpectRefused(ParseHeader(absl::string_view("{}\0", 3), 0), "not valid JSON");
  ExpectRefused(ParseHeader("{}/**/", 0), "not valid JSON");
  ExpectRefused(ParseHeader("\xEF\xBB\xBF{}", 0), "'{'");
  ExpectRefused(
      ParseHeader("{\"a\xff\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0),
      "not valid JSON");
  ExpectRefused(ParseHeader("{\"a\xc0\xaf\":1}", 0), "not valid JSON");
}

TEST(SafetensorsTest, RefusesDuplicatesAndStrangers) {  // row 4
  const char* kE = R"({"dtype":"F32","shape":[0],"data_offsets":[0,0]})";
  ExpectRefused(ParseHeader(absl::StrCat(R"({"a":)", kE, R"(,"a":)", kE, "}"), 0), "occurs twice");
  ExpectRefused(ParseHeader(absl::StrCat(R"({"a":)", kE, R"(,"\u0061":)", kE, "}"), 0),
                "occurs twice");
  ExpectRefused(
      ParseHeader(R"({"a":{"dtype":"F32","dtype":"F32","shape":[0],"data_offsets":[0,0]}})", 0),
      "occurs twice");
  ExpectRefused(ParseHeader(R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0],"x":1}})", 0),
                "unknown field");
  ExpectRefused(ParseHeader(R"({"a":{"dtype":"F32","shape":[0]}})", 0), "needs dtype");
  ExpectRefused(ParseHeader(R"({"a":{}})", 0), "needs dtype");
  ExpectRefused(ParseHeader(R"({"a":1})", 0), "map names to tensors");
  ExpectRefused(ParseHeader(R"({"a":[]})", 0), "map names to tensors");
  ExpectRefused(ParseHeader(R"({"":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})", 0),
                "no name");
  ExpectRefused(ParseHeader(absl::StrCat(R"({")", std::string(513, 'n'), R"(":)", kE, "}"), 0),
                "too long");
  ExpectRefused(ParseHeader(R"({"a":{"dtype":"F32","shape":[[[0]]],"data_offsets":[0,0]}})", 0),
                "deep");
  for (const char* number : {"NaN", "Infinity", "-Infinity", "1e2", "1.0", "-1", "-0", "\"1\"",
                             "null", "true", "01", "+1", "0x1", "18446744073709551616", "1e999"}) {
    EXPECT_FALSE(ParseHeader(Entry("F32", absl::StrCat("[", number, "]"), "[0,0]"), 0).ok())
        << number;
    EXPECT_FALSE(ParseHeader(Entry("F32", "[0]", absl::StrCat("[", number, ",0]")), 0).ok())
        << number;
  }
}

TEST(SafetensorsTest, KnowsTheTypesOfTheFormatAndNoOthers) {  // row 5
  for (const char* type :
       {"BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}) {
    EXPECT_TRUE(ParseHeader(Entry(type, "[3]", "[0,3]"), 3).ok()) << type;
  }
  for (const char* type : {"I16", "U16", "F16", "BF16"}) {
    EXPECT_TRUE(ParseHeader(Entry(type, "[3]", "[0,6]"), 6).ok()) << type;
  }
  for (const char* type : {"I32", "U32", "F32"}) {
    EXPECT_TRUE(ParseHeader(Entry(type, "[3]", "[0,12]"), 12).ok()) << type;
  }
  for (const char* type : {"C64", "F64", "I64", "U64"}) {
    EXPECT_TRUE(ParseHeader(Entry(type, "[3]", "[0,24]"), 24).ok()) << type;
  }
  EXPECT_TRUE(ParseHeader(Entry("F4", "[2]", "[0,1]"), 1).ok());
  EXPECT_TRUE(ParseHeader(Entry("F6_E2M3", "[4]", "[0,3]"), 3).ok());
  ExpectRefused(ParseHeader(Entry("F4", "[3]", "[0,1]"), 1), "inside a byte");
  ExpectRefused(ParseHeader(Entry("F6_E3M2", "[3]", "[0,2]"), 2), "inside a byte");
  ExpectRefused(ParseHeader(Entry("F33", "[1]", "[0,4]"), 4), "unknown dtype");
  ExpectRefused(ParseHeader(Entry("f32", "[1]", "[0,4]"), 4), "unknown dtype");
}

TEST(SafetensorsTest, RefusesShapesBeyondMemory) {  // row 6
  // The product is 4 modulo 2^64.
  ExpectRefused(ParseHeader(Entry("U8", "[4194305,4194305,211106198978564]", "[0,4]"), 4),
                "beyond");
  ExpectRefused(ParseHeader(Entry("F32", "[4611686018427387905]", "[0,4]"), 4), "beyond");
  ExpectRefused(ParseHeader(Entry("F32", "[9223372036854775808]", "[0,4]"), 4), "2^63");
  ExpectRefused(
      ParseHeader(Entry("F32", "[9223372036854775807,9223372036854775807,0]", "[0,0]"), 0),
      "beyond");
  ExpectRefused(ParseHeader(Entry("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4), "8 dimensions");
}

TEST(SafetensorsTest, RefusesOffsetsThatDoNotFitTheShapeOrTheFile) {  // row 7
  ExpectRefused(ParseHeader(Entry("F32", "[1]", "[4,0]"), 4), "backwards");
  ExpectRefused(ParseHeader(Entry("F32", "[1]", "[0,8]"), 8), "do not hold");
  ExpectRefused(ParseHeader(Entry("F32", "[2]", "[0,8]"), 4), "behind the end");
  ExpectRefused(ParseHeader(Entry("F32", "[1]", "[9223372036854775803,9223372036854775807]"), 4),
                "behind the end");
  ExpectRefused(ParseHeader(Entry("F32", "[1]", "[0]"), 4), "two numbers");
  ExpectRefused(ParseHeader(Entry("F32", "[1]", "[0,4,4]"), 4), "two numbers");
  ExpectRefused(ParseHeader(Entry("F32", "[1]", "4"), 4), "wrong type");
}

TEST(SafetensorsTest, RefusesHolesOverlapsAndTrailingBytes) {  // row 8
  const auto two = [](absl::string_view a, absl::string_view b, size_t size) {
    return ParseHeader(absl::StrCat(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)", a,
                                    R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)", b, "}}"),
                       size);
  };
  EXPECT_TRUE(two("[0,4]", "[4,8]", 8).ok());
  ExpectRefused(two("[0,4]", "[0,4]", 4), "overlaps");
  ExpectRefused(two("[0,4]", "[2,6]", 6), "overlaps");
  ExpectRefused(two("[0,4]", "[5,9]", 9), "hole");
  ExpectRefused(two("[1,5]", "[5,9]", 9), "hole");
  ExpectRefused(two("[0,4]", "[4,8]", 9), "behind its last tensor");
  ExpectRefused(ParseHeader("{}", 1), "behind its last tensor");
  // A zero-size tensor inside another one's data.
  ExpectRefused(ParseHeader(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                            R"("z":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
                            4),
                "overlaps");
}

TEST(SafetensorsTest, RefusesOddMetadata) {  // row 11
  ExpectRefused(ParseHeader(R"({"__metadata__":{"a":1}})", 0), "strings to strings");
  ExpectRefused(ParseHeader(R"({"__metadata__":{"a":{}}})", 0), "strings to strings");
  ExpectRefused(ParseHeader(R"({"__metadata__":"a"})", 0), "map names to tensors");
  ExpectRefused(ParseHeader(R"({"__metadata__":{"a":"1","a":"2"}})", 0), "twice");
  ExpectRefused(ParseHeader(R"({"__metadata__":{},"__metadata__":{}})", 0), "two __metadata__");
  std::string large = R"({"__metadata__":{"a":"")";
  for (int i = 0; i < 9; ++i) {
    absl::StrAppend(&large, i == 0 ? "" : ",", "\"", i, "\":\"", std::string(1 << 19, 'x'), "\"");
  }
  large = absl::StrReplaceAll(large, {{R"("a":"")", ""}}) + "}}";
  ExpectRefused(ParseHeader(large, 0), "too large");
}

// Megabytes that parsing `file` adds to the peak of a process of its own (a fork starts with no
// peak but its present size); -1 when it was accepted.
int MegabytesToRefuse(const std::string& file) {
  int result[2];
  if (pipe(result) != 0) return -2;
  const pid_t child = fork();
  if (child == 0) {
    rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    const bool refused = !Parse(file).ok();
    getrusage(RUSAGE_SELF, &after);
    const int grown = refused ? static_cast<int>((after.ru_maxrss - before.ru_maxrss) / 1024) : -1;
    _exit(write(result[1], &grown, sizeof(grown)) == sizeof(grown) ? 0 : 1);
  }
  int grown = -3;
  close(result[1]);
  if (read(result[0], &grown, sizeof(grown)) != sizeof(grown)) grown = -4;
  close(result[0]);
  waitpid(child, nullptr, 0);
  return grown;
}

TEST(SafetensorsTest, HostileHeadersOfFullSizeTakeLittleMemory) {
  std::vector<std::string> headers;
  std::string many = "{";
  const std::string name(480, 'n');
  for (int i = 0; i < 170'000; ++i) {
    absl::StrAppend(&many, "\"", name, i,
                    R"(":{"dtype":"U8","shape":[0,0,0,0],"data_offsets":[0,0]},)");
  }
  many += "\"last\":{}";
  headers.push_back(many + "}");
  headers.push_back("{\"" + std::string(99'000'000, 'x') + "\":1}");
  headers.push_back("{\"a\":" + std::string(99'000'000, '1') + "}");
  headers.push_back("{\"a\":" + std::string(99'000'000, '[') + "}");
  headers.push_back("{\"a\":{\"shape\":[" + std::string(99'000'000, ',') + "]}}");
  std::string metadata = R"({"__metadata__":{)";
  for (int i = 0; metadata.size() < 99'000'000; ++i) {
    absl::StrAppend(&metadata, i == 0 ? "" : ",", "\"", i, "\":\"\"");
  }
  headers.push_back(metadata + "}}");
  for (const std::string& header : headers) {
    const int grown = MegabytesToRefuse(SafetensorsBytes(header, 0));
    EXPECT_GE(grown, 0) << header.substr(0, 40);
    EXPECT_LT(grown, 200) << header.substr(0, 40);
  }
}

NamedTensor Tensor(std::string name, DType dtype, std::vector<int64_t> shape,
                   const std::string& bytes) {
  return {std::move(name), dtype, std::move(shape),
          absl::MakeConstSpan(reinterpret_cast<const std::byte*>(bytes.data()), bytes.size())};
}

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(WriteSafetensorsTest, WritesWhatTheReferenceLibraryWrites) {
  const TempFolder folder;
  const std::string four = "abcd", eight = "ABCDEFGH", none;
  ASSERT_TRUE(WriteSafetensors(folder.File("x.safetensors"),
                               {Tensor("z", DType::kBFloat16, {2}, four),
                                Tensor("half", DType::kFloat16, {1, 2}, four),
                                Tensor("f\"1", DType::kFloat32, {}, four),
                                Tensor("empty", DType::kFloat32, {0, 3}, none),
                                Tensor("ids", DType::kInt64, {1}, eight)})
                  .ok());
  // What safetensors 0.8 writes for the same tensors.
  const std::string header = R"({"ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
                             R"("empty":{"dtype":"F32","shape":[0,3],"data_offsets":[8,8]},)"
                             R"("f\"1":{"dtype":"F32","shape":[],"data_offsets":[8,12]},)"
                             R"("z":{"dtype":"BF16","shape":[2],"data_offsets":[12,16]},)"
                             R"("half":{"dtype":"F16","shape":[1,2],"data_offsets":[16,20]}})";
  const std::string file = ReadFile(folder.File("x.safetensors"));
  EXPECT_THAT(file, HasSubstr(header));
  EXPECT_EQ(file.substr(file.size() - 20), "ABCDEFGHabcdabcdabcd");
  const auto parsed = Parse(file);
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->data_offset % 8, 0);
  EXPECT_EQ(parsed->tensors.size(), 5u);
}

TEST(WriteSafetensorsTest, WritesToAPipeAndDoesNotReplaceIt) {
  const TempFolder folder;
  const std::string path = folder.File("pipe");
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  const int reader = open(path.c_str(), O_RDONLY | O_NONBLOCK);
  ASSERT_GE(reader, 0);
  const std::string four = "abcd";
  EXPECT_TRUE(WriteSafetensors(path, {Tensor("a", DType::kFloat32, {1}, four)}).ok());
  EXPECT_TRUE(WriteSafetensors(folder.File("x"), {Tensor("a", DType::kFloat32, {1}, four)}).ok());
  std::string bytes(1000, '\0');
  bytes.resize(std::max<ssize_t>(0, read(reader, bytes.data(), bytes.size())));
  close(reader);
  EXPECT_EQ(bytes, ReadFile(folder.File("x")));
  EXPECT_TRUE(std::filesystem::is_fifo(path));
}

TEST(WriteSafetensorsTest, AFailureLeavesNoFileAndKeepsTheOldOne) {
  const TempFolder folder;
  const std::string four = "abcd";
  const std::string path = folder.File("x.safetensors");
  folder.Write("x.safetensors", "old");
  const auto refused = [&](std::vector<NamedTensor> tensors) {
    const absl::Status status = WriteSafetensors(path, tensors);
    EXPECT_THAT(status, HasReason(Reason::kFileNotWritten)) << status;
  };
  refused({Tensor("a", DType::kFloat32, {2}, four)});
  refused({Tensor("a", DType::kFloat32, {-1}, four)});
  refused({Tensor("a", DType::kOther, {4}, four)});
  refused({Tensor("", DType::kFloat32, {1}, four)});
  refused({Tensor("__metadata__", DType::kFloat32, {1}, four)});
  refused({Tensor("a\xff", DType::kFloat32, {1}, four)});
  refused({Tensor("a", DType::kFloat32, {1}, four), Tensor("a", DType::kFloat32, {1}, four)});
  refused({Tensor("a", DType::kFloat32, {int64_t{1} << 62, 8}, four)});
  EXPECT_EQ(ReadFile(path), "old");
  EXPECT_THAT(WriteSafetensors(folder.File("no/such.safetensors"), {}),
              HasReason(Reason::kFileNotWritten));
  std::filesystem::create_directory(folder.File("taken"));
  EXPECT_THAT(WriteSafetensors(folder.File("taken"), {}), HasReason(Reason::kFileNotWritten));
  int entries = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) {
    entries += entry.exists() ? 1 : 0;
  }
  EXPECT_EQ(entries, 2);
}

}  // namespace
}  // namespace chord::model
