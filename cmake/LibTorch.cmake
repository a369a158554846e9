# LibTorch, from the PyPI wheel or any unpacked LibTorch on CMAKE_PREFIX_PATH.
# TorchConfig.cmake is not used: it demands a CUDA toolkit even for programs that link only the CPU libraries.
find_path(MERISTEM_TORCH_ROOT NAMES include/torch/version.h include/torch/csrc/api/include/torch/version.h
          PATH_SUFFIXES . .. ../.. ../../..
          HINTS ${CMAKE_PREFIX_PATH} $ENV{MERISTEM_TORCH_ROOT} REQUIRED
          DOC "Folder of LibTorch: holds include/ and lib/")
set(torch_lib ${MERISTEM_TORCH_ROOT}/lib)
file(STRINGS ${MERISTEM_TORCH_ROOT}/include/torch/headeronly/version.h torch_version_lines REGEX "define TORCH_VERSION_(MAJOR|MINOR)")
string(REGEX REPLACE ".*MAJOR ([0-9]+).*MINOR ([0-9]+).*" "\\1.\\2" torch_version "${torch_version_lines}")
if(NOT torch_version STREQUAL "2.11")
  message(FATAL_ERROR "LibTorch 2.11 is needed; ${MERISTEM_TORCH_ROOT} holds ${torch_version}")
endif()

add_library(meristem_torch INTERFACE)
target_include_directories(meristem_torch SYSTEM INTERFACE
  ${MERISTEM_TORCH_ROOT}/include ${MERISTEM_TORCH_ROOT}/include/torch/csrc/api/include)
# LibTorch brings headers of its own fmt, newer than the distribution's library, and they come first: no library has their symbols.
target_compile_definitions(meristem_torch INTERFACE FMT_HEADER_ONLY=1)
target_link_libraries(meristem_torch INTERFACE ${torch_lib}/libtorch_cpu.so ${torch_lib}/libc10.so Threads::Threads)
# at::parallel_for is a template: without -fopenmp its body runs on one thread, silently. It must be LibTorch's own runtime, or two sets of
# threads would fight for the cores.
target_compile_options(meristem_torch INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fopenmp>)
file(GLOB torch_openmp ${torch_lib}/libgomp*.so*)
if(torch_openmp)
  list(GET torch_openmp 0 torch_openmp)
  target_link_libraries(meristem_torch INTERFACE ${torch_openmp})
else()
  target_link_options(meristem_torch INTERFACE -fopenmp)
endif()
target_link_options(meristem_torch INTERFACE -Wl,-rpath,${torch_lib} -Wl,--allow-shlib-undefined)
if(MERISTEM_LINK_CUDA)
  find_package(CUDAToolkit REQUIRED)
  # libtorch_cuda registers its kernels when it is loaded; nothing here refers to it by symbol, so the linker must keep it. For the linker
  # alone: what is compiled is the same with and without CUDA, so the compiler cache serves both builds. A file that includes CUDA's own
  # headers says so itself, with meristem_cuda_source.
  target_link_libraries(meristem_torch INTERFACE
    -Wl,--no-as-needed ${torch_lib}/libtorch_cuda.so ${torch_lib}/libc10_cuda.so -Wl,--as-needed $<LINK_ONLY:CUDA::cudart>)
endif()

# meristem_cuda_source(FILE [INCLUDE folder] [DEFINITIONS …]): a file of a LINK build that includes CUDA's headers.
function(meristem_cuda_source file)
  cmake_parse_arguments(arg "" "" "INCLUDE;DEFINITIONS" ${ARGN})
  set_source_files_properties(${file} PROPERTIES INCLUDE_DIRECTORIES "${arg_INCLUDE};${CUDAToolkit_INCLUDE_DIRS}"
    COMPILE_DEFINITIONS "${arg_DEFINITIONS}" SKIP_UNITY_BUILD_INCLUSION ON)
endfunction()
