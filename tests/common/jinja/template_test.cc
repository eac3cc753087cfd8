#include "common/jinja/template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/common/jinja/json_value.h"

namespace chord::jinja {
namespace {

using nlohmann::ordered_json;
using ::testing::HasSubstr;
using ::testing::StartsWith;

const ordered_json& Golden() {
  static const auto* const kGolden = new ordered_json([] {
    std::ifstream in(std::string(CHORD_SOURCE_DIR) + "/tests/common/jinja/golden.json");
    return ordered_json::parse(in);
  }());
  return *kGolden;
}

absl::StatusOr<Text> Render(absl::string_view source,
                            const std::vector<std::pair<std::string, Value>>& variables = {},
                            const RenderOptions& options = {}) {
  auto parsed = Template::Parse(source);
  if (!parsed.ok()) return parsed.status();
  return parsed->Render(variables, options);
}

std::string Rendered(absl::string_view source,
                     const std::vector<std::pair<std::string, Value>>& variables = {}) {
  const auto text = Render(source, variables);
  return text.ok() ? text->bytes() : std::string(text.status().message());
}

void ExpectEqual(const ordered_json& wanted, const absl::StatusOr<Text>& got) {
  if (wanted.is_null()) {
    EXPECT_FALSE(got.ok()) << got->bytes();
  } else if (got.ok()) {
    EXPECT_EQ(got->bytes(), wanted.get<std::string>());
  } else {
    ADD_FAILURE() << got.status() << "\n  wanted " << wanted;
  }
}

TEST(TemplateTest, RendersEveryFeatureAsTransformersDoes) {
  const auto variables = Variables(Golden()["conversations"]["one image"]);
  ASSERT_GE(Golden()["features"].size(), 140u);
  for (const ordered_json& row : Golden()["features"]) {
    SCOPED_TRACE(row["template"].get<std::string>());
    ExpectEqual(row["text"], Render(row["template"].get<std::string>(), variables));
  }
}

TEST(TemplateTest, RendersEveryChatTemplateAsTransformersDoes) {
  ASSERT_GE(Golden()["templates"].size(), 35u);
  for (const ordered_json& row : Golden()["templates"]) {
    const auto parsed = Template::Parse(row["template"].get<std::string>());
    ASSERT_TRUE(parsed.ok()) << row["name"] << parsed.status();
    size_t i = 0;
    for (const auto& [name, messages] : Golden()["conversations"].items()) {
      SCOPED_TRACE(absl::StrCat(row["name"].get<std::string>(), ", ", name));
      ExpectEqual(row["texts"][i++], parsed->Render(Variables(messages)));
    }
  }
}

TEST(TemplateTest, NamesWhatItDoesNotSupportAndItsLine) {
  const std::pair<absl::string_view, absl::string_view> cases[] = {
      {"a\n{{ x | xmlattr }}", "line 2: the filter \"xmlattr\" is not supported"},
      {"{{ x is\n foo }}", "line 1: the test \"foo\" is not supported"},
      {"\n\n{% include 'x' %}", "line 3: the statement \"include\" is not supported"},
      {"{% if false %}{{ x.encode() }}{% endif %}", "the method \"encode\" is not supported"},
      {"{{ lipsum() }}", "the function \"lipsum\" is not supported"},
      {"{% for x in y recursive %}{% endfor %}", "a recursive loop is not supported"},
      {"{{ x.__class__ }}", "the attribute \"__class__\" is not supported"},
      {"{{ f(*x) }}", "unpacked arguments are not supported"},
      {"{{ [1] | map(x) }}", "with a constant name only"},
      {"{{ [1] | map('map', 'map') }}", "the filter \"map\" is not supported"},
      {"{{ '%s' % x }}", "formatting with \"%\" is not supported"},
      {"{% call m() %}{% endcall %}", "the statement \"call\" is not supported"},
      {"{{ x", "line 1: a tag does not end"},
      {"{% if x %}\n", "line 1: the block that begins here has no endif"},
  };
  for (const auto& [source, message] : cases) {
    const auto parsed = Template::Parse(source);
    ASSERT_FALSE(parsed.ok()) << source;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(std::string(message)));
    EXPECT_THAT(std::string(parsed.status().message()), StartsWith("line "));
  }
}

TEST(TemplateTest, SaysOnWhichLineRenderingFailed) {
  EXPECT_EQ(Rendered("a\n{{ x.y }}"), "line 2: \"x\" is undefined, so it has no \"y\"");
  EXPECT_EQ(Render("{{ raise_exception('Only ' ~ 2) }}").status(),
            absl::FailedPreconditionError("Only 2"));
}

TEST(TemplateTest, TellsTheTimeItIsGiven) {
  RenderOptions options;
  options.now = absl::FromCivil(absl::CivilSecond(2026, 3, 4, 5, 6, 7), absl::LocalTimeZone());
  const auto text =
      Render("{{ strftime_now('%Y-%m-%d %H:%M:%S') }}{{ strftime_now('') }}", {}, options);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(text->bytes(), "2026-03-04 05:06:07");
}

// The text with what a user wrote in angle brackets.
std::string Marked(absl::string_view source, absl::string_view user) {
  const auto text = Render(source, {{"u", Value::String(user, Origin::kUser)}});
  if (!text.ok()) return std::string(text.status().message());
  std::string out;
  size_t begin = 0;
  for (const Text::Run& run : text->runs()) {
    const std::string part = text->bytes().substr(begin, run.end - begin);
    absl::StrAppend(&out, run.origin == Origin::kUser ? absl::StrCat("<", part, ">") : part);
    begin = run.end;
  }
  return out;
}

TEST(OriginTest, SurvivesEveryTransformation) {
  const std::pair<absl::string_view, absl::string_view> cases[] = {
      {"a{{ u }}b", "a<x y>b"},
      {"{{ 'a' + u + 'b' }}", "a<x y>b"},
      {"{{ 'a' ~ u ~ 1 }}", "a<x y>1"},
      {"{{ u | trim | upper }}!", "<X Y>!"},
      {"{{ u | capitalize }}{{ u | title }}{{ u.title() }}", "<X yX YX Y>"},
      {"{{ u | reverse }}{{ u[::-1] }}{{ u[0] }}{{ u[1:] }}", "<y xy xx y>"},
      {"{{ u | replace(' ', '-') }}", "<x>-<y>"},
      {"{{ '1 2' | replace(' ', u) }}", "1<x y>2"},
      {"{{ u.split() | join('+') }}", "<x>+<y>"},
      {"{{ (u ~ 'z').split('yz')[0] }}", "<x >"},
      {"{{ ('[' ~ u ~ ']').strip('[') }}", "<x y>]"},
      {"{{ [u, 'a'] }}", "['<x y>', 'a']"},
      {"{{ {'k': u} | tojson }}", "{\"k\": \"<x y>\"}"},
      {"{{ u | e }}{{ u | safe }}", "<x yx y>"},
      {"{% set t %}[{{ u }}]{% endset %}{{ t }}", "[<x y>]"},
      {"{% filter upper %}a{{ u }}{% endfilter %}", "A<X Y>"},
      {"{% macro m(v) %}({{ v }}){% endmacro %}{{ m(u) }}", "(<x y>)"},
      {"{{ u * 2 }}", "<x yx y>"},
      {"{{ u | list | first }}{{ u | indent(1, true) }}", "<x> <x y>"},
      {"{% for c in u %}{{ c }}.{% endfor %}", "<x>.< >.<y>."},
      {"{{ '%s-%s' | format(u, 'a') }}", "<x y>-a"},
      {"{{ [u] | map('upper') | join }}", "<X Y>"},
      {"{{ dict(k=u).k }}{% set n = namespace(v=u) %}{{ n.v }}", "<x yx y>"},
  };
  for (const auto& [source, wanted] : cases) {
    EXPECT_EQ(Marked(source, "x y"), wanted) << source;
  }
}

TEST(OriginTest, SurvivesEscapes) {
  EXPECT_EQ(Marked("{{ {'k': u} | tojson }}", "a\"\n"), "{\"k\": \"<a\\\"\\n>\"}");
  EXPECT_EQ(Marked("{{ u | e }}", "<b>"), "<&lt;b&gt;>");
  EXPECT_EQ(Marked("{{ [u] }}", "'\n"), "[\"<'\\n>\"]");
}

TEST(BoundsTest, EndsWhatWouldNotEnd) {
  const absl::string_view cases[] = {
      "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{{ 'x' * 9999999999 }}",
      "{{ [1] * 99999999 }}",
      "{% set n = namespace(s='xx') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor "
      "%}",
      "{% set n = namespace(l=[1]) %}{% for i in range(70) %}{% set n.l = [n.l, n.l] %}{% endfor "
      "%}{{ n.l }}",
      "{% set n = namespace(l=[]) %}{% for i in range(9999) %}{% set n.l = [n.l] %}{% endfor %}",
      "{{ range(100001) }}",
      "{{ 'a' | indent(2000000000, true) }}",
      "{{ ('a' * 1000000) | replace('', 'b' * 1000000) }}",
      "{{ [1, 2] | batch(2000000000, 0) | list }}",
      "{{ 9223372036854775807 + 1 }}",
      "{{ 10 ** 30 }}",
      "{{ [1] | tojson(indent=1000000000) }}",
  };
  for (const absl::string_view source : cases) {
    EXPECT_FALSE(Render(source).ok()) << source;
  }
}

TEST(BoundsTest, RefusesNestingInTheSource) {
  const auto repeat = [](absl::string_view text, int times) {
    std::string out;
    for (int i = 0; i < times; ++i) absl::StrAppend(&out, text);
    return out;
  };
  for (const absl::string_view open : {"(", "[", "{'a':", "-", "not ", "f(", "1 if 1 else ", "x[",
                                       "1+(", "x|default(", "a.b(", "1 is in ["}) {
    EXPECT_FALSE(Template::Parse(absl::StrCat("{{ ", repeat(open, 100'00))).ok()) << open;
  }
  EXPECT_FALSE(Template::Parse(repeat("{% if x %}", 5000)).ok());
  EXPECT_FALSE(Template::Parse(absl::StrCat("{{ x", repeat(".a", 5000), " }}")).ok());
  EXPECT_FALSE(Template::Parse(absl::StrCat("{{ x", repeat("|trim", 5000), " }}")).ok());
  EXPECT_FALSE(Template::Parse(absl::StrCat("{{ 1", repeat("+1", 5000), " }}")).ok());
  EXPECT_FALSE(Template::Parse(repeat("{{ x }}", 100'000)).ok());
  EXPECT_TRUE(Template::Parse(absl::StrCat("{{ 1", repeat("~1", 5000), " }}")).ok());
}

TEST(BoundsTest, TakesLargeTemplatesOfPlainText) {
  const std::string text(2 << 20, ' ');
  for (const std::string& source :
       {text, "{#" + text + "#}", text + "{{- 1 }}", "{{ 1 -}}" + text, "{{" + text + "1 }}",
        "{{ '" + text + "' }}", "{% raw %}" + text + "{% endraw %}"}) {
    EXPECT_TRUE(Template::Parse(source).ok());
  }
  EXPECT_FALSE(Template::Parse(std::string(2 << 20, '{')).ok());
  EXPECT_TRUE(Template::Parse("{% raw %}" + std::string(2 << 20, '{') + "{% endraw %}").ok());
}

TEST(BoundsTest, NamespacesMayHoldEachOther) {
  EXPECT_EQ(Rendered("{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = b %}"
                     "{% set a.self = a %}{{ a.b.a.self.b is defined }}"),
            "True");
}

TEST(TemplateTest, RefusesWhatIsNotUtf8) { EXPECT_FALSE(Template::Parse("a\xff").ok()); }

}  // namespace
}  // namespace chord::jinja
