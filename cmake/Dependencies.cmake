# Everything that is not ours, and how it is found. Versions: third_party/.
find_package(Threads REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(fmt REQUIRED)
find_package(Catch2 REQUIRED)

find_path(MERISTEM_XXHASH_INCLUDE xxhash.h REQUIRED)
add_library(meristem_xxhash INTERFACE)
target_include_directories(meristem_xxhash SYSTEM INTERFACE ${MERISTEM_XXHASH_INCLUDE})

add_library(meristem_yaml INTERFACE)
target_link_libraries(meristem_yaml INTERFACE $<IF:$<TARGET_EXISTS:yaml-cpp::yaml-cpp>,yaml-cpp::yaml-cpp,yaml-cpp>)

add_library(meristem_catch INTERFACE)
target_link_libraries(meristem_catch INTERFACE Catch2::Catch2)

include(LibTorch)
