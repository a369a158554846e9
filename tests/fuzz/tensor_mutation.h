// Shared by the two formats that hold safetensors.
#pragma once

#include <string>

#include "checkpoint/safetensors.h"
#include "fuzz/random.h"

namespace meristem::fuzz {

void mutate_safetensors(std::string& bytes, Dice& dice);
void touch(const SafetensorsFile& file);  // reads every byte of every tensor

}  // namespace meristem::fuzz
