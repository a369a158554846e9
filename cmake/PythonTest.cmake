# meristem_python_test(NAME SCRIPT [ARGUMENTS …] [LABELS …] [TIMEOUT seconds]):
# a Python script as one CTest entry, run by the project's Python. MERISTEM_PYTHON, _BINARY and _BENCH are set as scripts/meristem sets them;
# MERISTEM_SERVER is what tests/support/program.py starts the program with. matplotlib keeps its list of fonts, which takes seconds to make, in the build.
# The script exits 4 where something that it needs is not here, after saying what: the test then counts as skipped.
include_guard(GLOBAL)

if(NOT MERISTEM_TEST_PYTHON)
  set(python $ENV{MERISTEM_PYTHON})
  if(NOT python AND MERISTEM_TORCH_ROOT MATCHES "^(.*)/lib/python3[^/]*/site-packages/torch/*$")
    set(python ${CMAKE_MATCH_1}/bin/python)
  endif()
  if(NOT python OR NOT EXISTS ${python})
    find_package(Python3 COMPONENTS Interpreter REQUIRED)
    set(python ${Python3_EXECUTABLE})
  endif()
  set(MERISTEM_TEST_PYTHON ${python} CACHE FILEPATH "The Python that tests run")
endif()

function(meristem_python_test name script)
  cmake_parse_arguments(arg "" "TIMEOUT" "ARGUMENTS;LABELS" ${ARGN})
  add_test(NAME ${name} COMMAND ${MERISTEM_TEST_PYTHON} ${CMAKE_CURRENT_SOURCE_DIR}/${script} ${arg_ARGUMENTS})
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS}" TIMEOUT ${arg_TIMEOUT} SKIP_RETURN_CODE 4
    ENVIRONMENT "MERISTEM_PYTHON=${MERISTEM_TEST_PYTHON};MERISTEM_BINARY=${CMAKE_BINARY_DIR}/bin/meristem;MERISTEM_BENCH=${CMAKE_BINARY_DIR}/bin/meristem-bench;MERISTEM_SERVER=${CMAKE_BINARY_DIR}/tests/support/meristem_server;PYTHONDONTWRITEBYTECODE=1;MPLCONFIGDIR=${CMAKE_BINARY_DIR}/matplotlib")
endfunction()
