// What models say to those who carry them elsewhere: how a part of a block is computed by transformers. Not all of it is LibTorch's
// business, so it stands here, where interop/ can read it without knowing models.
#pragma once

#include <string>

namespace meristem {

struct ModelPart {
  std::string name;          // in the block: "attention" of "blocks.3.attention.qkv.weight"
  std::string python_class;  // of modeling_meristem.py, made from the config alone; empty: transformers cannot compute this part
  std::string source;        // Python that defines the class, where modeling_meristem.py does not
};

}  // namespace meristem
