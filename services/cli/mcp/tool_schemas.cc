// The text that models read: what a tool is for and what its coordinates mean.
#include "services/cli/mcp/tools.h"

namespace chord::cli::mcp {
namespace {

constexpr char kTools[] = R"JSON([
  {
    "name": "locate",
    "title": "Locate objects",
    "description": "Finds what a prompt describes in an image and returns its boxes in pixels of the upright original image, origin top left, each with a confidence. An empty list means that it is not there, unless the answer is truncated. Prompts are short noun phrases in English or Chinese: \"the white vase\", \"all cups\", \"the red chair at the bottom right\".",
    "inputSchema": {
      "type": "object",
      "properties": {
        "path": {"type": "string", "description": "Path of a JPEG, PNG or WebP file. Give either path or data."},
        "data": {"type": "string", "description": "The image file in base64, or a data: URL. Give either path or data."},
        "prompt": {"type": "string", "minLength": 1, "description": "What to find. Give either prompt or labels."},
        "labels": {
          "type": "array", "minItems": 1, "maxItems": 64, "items": {"type": "string", "minLength": 1},
          "description": "Classes to find all objects of, in one call: [\"cup\", \"plate\"]. Give either prompt or labels."
        }
      },
      "additionalProperties": false
    },
    "outputSchema": {
      "type": "object",
      "properties": {
        "found": {"type": "boolean"},
        "objects": {"type": "array", "items": {"$ref": "#/$defs/object"}},
        "confidence": {"type": "number", "description": "Of the answer, 0 to 1; when nothing was found, that it is not there. Missing when that is not known."},
        "labels": {
          "type": "array", "description": "For a call with labels, in their order.",
          "items": {
            "type": "object",
            "properties": {
              "label": {"type": "string"},
              "objects": {"type": "array", "items": {"type": "integer"}, "description": "Indices into objects; empty: none was found."},
              "confidence": {"type": "number", "description": "Of these objects; without objects, that there are none."}
            },
            "required": ["label", "objects"]
          }
        },
        "image_size": {"$ref": "#/$defs/size"},
        "truncated": {"type": "boolean", "description": "The answer reached its longest length: more objects may be there."},
        "advice": {"type": "string", "description": "How to make the prompt better."},
        "model": {"type": "string"}
      },
      "required": ["found", "objects", "image_size"]
    }
  },
  {
    "name": "annotate",
    "title": "Draw boxes",
    "description": "Returns the image with boxes drawn on it, green, or orange where the confidence is low: those of a prompt, which is located first, or boxes given in pixels of the upright original. The image that is returned may be scaled down; image_size and all boxes are those of the original.",
    "inputSchema": {
      "type": "object",
      "properties": {
        "path": {"type": "string", "description": "Path of a JPEG, PNG or WebP file. Give either path or data."},
        "data": {"type": "string", "description": "The image file in base64, or a data: URL. Give either path or data."},
        "prompt": {"type": "string", "minLength": 1, "description": "What to find and draw. Give either prompt or boxes."},
        "boxes": {
          "type": "array", "minItems": 1, "maxItems": 1000,
          "description": "Boxes to draw. Give either prompt or boxes.",
          "items": {
            "type": "object",
            "properties": {
              "box": {"$ref": "#/$defs/box"},
              "label": {"type": "string"}
            },
            "required": ["box"],
            "additionalProperties": false
          }
        },
        "max_side": {"type": "integer", "minimum": 64, "maximum": 4096, "default": 1024, "description": "Longest side of the returned image in pixels."}
      },
      "additionalProperties": false
    },
    "outputSchema": {
      "type": "object",
      "properties": {
        "found": {"type": "boolean"},
        "objects": {"type": "array", "items": {"$ref": "#/$defs/object"}},
        "image_size": {"$ref": "#/$defs/size"},
        "shown_size": {"$ref": "#/$defs/size"},
        "truncated": {"type": "boolean", "description": "The answer reached its longest length: more objects may be there."}
      },
      "required": ["found", "objects", "image_size", "shown_size"]
    }
  },
  {
    "name": "zoom",
    "title": "Zoom in",
    "description": "Returns a part of the image, enlarged, for a closer look: around a box in pixels of the upright original, or around the most certain object that a prompt finds.",
    "inputSchema": {
      "type": "object",
      "properties": {
        "path": {"type": "string", "description": "Path of a JPEG, PNG or WebP file. Give either path or data."},
        "data": {"type": "string", "description": "The image file in base64, or a data: URL. Give either path or data."},
        "prompt": {"type": "string", "minLength": 1, "description": "What to find and zoom to. Give either prompt or box."},
        "box": {"$ref": "#/$defs/box", "description": "What to zoom to. Give either prompt or box."},
        "margin": {"type": "number", "minimum": 0, "maximum": 10, "default": 0.25, "description": "Added on each side, as a share of the box's width and height."},
        "max_side": {"type": "integer", "minimum": 64, "maximum": 4096, "default": 1024, "description": "Longest side of the returned image in pixels."}
      },
      "additionalProperties": false
    },
    "outputSchema": {
      "type": "object",
      "properties": {
        "found": {"type": "boolean"},
        "region": {"$ref": "#/$defs/box", "description": "What is shown, in pixels of the upright original."},
        "shown_size": {"$ref": "#/$defs/size"},
        "object": {"$ref": "#/$defs/object"},
        "image_size": {"$ref": "#/$defs/size"},
        "truncated": {"type": "boolean", "description": "The answer reached its longest length: more objects may be there."}
      },
      "required": ["found", "image_size"]
    }
  }
])JSON";

constexpr char kDefinitions[] = R"JSON({
  "box": {
    "type": "array", "items": {"type": "integer"}, "minItems": 4, "maxItems": 4,
    "description": "[x1, y1, x2, y2] in pixels of the upright original, x1 < x2 and y1 < y2."
  },
  "size": {
    "type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2,
    "description": "[width, height] in pixels."
  },
  "object": {
    "type": "object",
    "properties": {
      "label": {"type": "string"},
      "box": {"$ref": "#/$defs/box"},
      "confidence": {"type": "number"},
      "needs_review": {"type": "boolean", "description": "The confidence is low: look again before relying on it."}
    },
    "required": ["label", "box"]
  }
})JSON";

}  // namespace

Json ToolList() {
  Json tools = Json::parse(kTools);
  const Json definitions = Json::parse(kDefinitions);
  for (Json& tool : tools) {
    tool["inputSchema"]["$defs"] = definitions;
    tool["outputSchema"]["$defs"] = definitions;
    tool["annotations"] = {
        {"readOnlyHint", true}, {"idempotentHint", true}, {"openWorldHint", false}};
  }
  return tools;
}

}  // namespace chord::cli::mcp
