// The tree of a parsed template. Immutable after parsing.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/jinja/value.h"

namespace chord::jinja {

struct Expr;
using ExprPtr = std::unique_ptr<Expr>;

struct Expr {
  enum Kind : uint8_t {
    kConstant,   // value
    kName,       // name
    kListOf,     // args
    kTupleOf,    // args
    kDictOf,     // args: key, value, key, value, ...
    kAttribute,  // args[0] . name
    kItem,       // args[0] [ args[1] ]
    kSlice,      // args[0] [ args[1] : args[2] : args[3] ], null when left out
    kCall,       // name ( args from 0 on )
    kMethod,     // args[0] . name ( args from 1 on )
    kFilter,     // args[0] | name ( args from 1 on ); args[0] null: what a block encloses
    kTest,       // args[0] is name ( args from 1 on )
    kNot,
    kNegate,
    kPlus,         // +args[0]
    kAnd,          // args
    kOr,           // args
    kCompare,      // args[0] ops[0] args[1] ops[1] args[2] ...
    kConcat,       // args, "~"
    kArithmetic,   // args[0] ops[0] args[1]
    kConditional,  // args: condition, value, other (null when left out)
  };
  Kind kind = kConstant;
  int line = 0;
  int depth = 1;  // of the tree from here down
  std::string name;
  Value value;
  std::vector<ExprPtr> args;
  std::vector<std::pair<std::string, ExprPtr>> named;
  std::vector<std::string> ops;  // "==", "in", "not in", "+", ...
};

// What is assigned to: a name, an attribute of a namespace, or several.
struct Target {
  std::string name;
  std::string attribute;      // with `name` the namespace
  std::vector<Target> parts;  // when not empty, the value is unpacked into them
};

struct Stmt;
using Body = std::vector<std::unique_ptr<Stmt>>;

struct Macro {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExprPtr> defaults;  // of the last parameters
  Body body;
};

struct Stmt {
  enum Kind : uint8_t {
    kText,         // text
    kOutput,       // expr
    kIf,           // branches; a null condition is "else"
    kFor,          // target, expr, filter, body, otherwise
    kSet,          // target, expr
    kSetBlock,     // target, expr (a chain of filters, or null), body
    kFilterBlock,  // expr, body
    kWith,         // assignments, body
    kScope,        // body: {% generation %}
    kMacro,        // macro
    kBreak,
    kContinue,
  };
  Kind kind = kText;
  int line = 0;
  std::shared_ptr<const Text> text;
  ExprPtr expr;
  ExprPtr filter;
  Target target;
  std::vector<std::pair<ExprPtr, Body>> branches;
  std::vector<std::pair<Target, ExprPtr>> assignments;
  Body body;
  Body otherwise;
  std::shared_ptr<const Macro> macro;
};

}  // namespace chord::jinja
