# These sources are compiled once per instruction set, each time into a namespace of that name, and one is picked at
# run time. They export plain functions and use nothing from the standard library that the linker could merge.
set(HEPGEN_ISA_SOURCES
  csrc/cpu/ecd_tile.cpp
  csrc/cpu/gaussian_tile.cpp
  csrc/cpu/kde_tile.cpp
  csrc/cpu/maf_tile.cpp
  csrc/cpu/mlp_tile.cpp
  csrc/cpu/multiply_add.cpp
  csrc/cpu/normal_noise.cpp)

function(hepgen_add_isa isa)
  add_library(hepgen_${isa} OBJECT ${HEPGEN_ISA_SOURCES})
  target_link_libraries(hepgen_${isa} PRIVATE hepgen_options)
  target_compile_definitions(hepgen_${isa} PRIVATE HEPGEN_ISA=${isa})
  target_compile_options(hepgen_${isa} PRIVATE ${ARGN})
endfunction()

hepgen_add_isa(baseline ${HEPGEN_BASELINE_FLAGS})
set(HEPGEN_ISA_OBJECTS $<TARGET_OBJECTS:hepgen_baseline>)
if(HEPGEN_X86)
  hepgen_add_isa(avx2 ${HEPGEN_AVX2_FLAGS})
  hepgen_add_isa(avx512 ${HEPGEN_AVX512_FLAGS})
  list(APPEND HEPGEN_ISA_OBJECTS $<TARGET_OBJECTS:hepgen_avx2> $<TARGET_OBJECTS:hepgen_avx512>)
endif()

# The kernels without Python: other programs can link this.
add_library(hepgen_kernels STATIC
  csrc/cpu/broken_line.cpp
  csrc/cpu/ceiling.cpp
  csrc/cpu/ecd.cpp
  csrc/cpu/gaussian_sweep.cpp
  csrc/cpu/isa.cpp
  csrc/cpu/kde_binned.cpp
  csrc/cpu/kde_exact.cpp
  csrc/cpu/maf.cpp
  csrc/cpu/maf_likelihood.cpp
  csrc/cpu/maf_plan.cpp
  csrc/cpu/mlp.cpp
  csrc/cpu/mmd.cpp
  csrc/cpu/packed.cpp
  csrc/cpu/panel_maker.cpp
  csrc/cpu/parallel.cpp
  csrc/cpu/philox.cpp
  ${HEPGEN_ISA_OBJECTS})
target_link_libraries(hepgen_kernels PUBLIC hepgen_options)
# the same random bits everywhere: no a * b + c in one rounding
set_source_files_properties(csrc/cpu/normal_noise.cpp csrc/cpu/philox.cpp PROPERTIES COMPILE_OPTIONS -ffp-contract=off)

if(HEPGEN_PYTHON)
  pybind11_add_module(_core MODULE NO_EXTRAS
    csrc/bindings/broken_line.cpp
    csrc/bindings/ecd.cpp
    csrc/bindings/isa.cpp
    csrc/bindings/kde.cpp
    csrc/bindings/main.cpp
    csrc/bindings/maf.cpp
    csrc/bindings/mlp.cpp
    csrc/bindings/mmd.cpp
    csrc/bindings/philox.cpp)
  target_link_libraries(_core PRIVATE hepgen_kernels)

  install(TARGETS _core LIBRARY DESTINATION hepgen)
endif()

if(HEPGEN_TESTS)
  enable_testing()
  add_executable(hepgen_tests
    tests/csrc/fuzz.cpp
    tests/csrc/main.cpp
    tests/csrc/test_broken_line.cpp
    tests/csrc/test_ecd.cpp
    tests/csrc/test_kde.cpp
    tests/csrc/test_maf.cpp
    tests/csrc/test_mlp.cpp
    tests/csrc/test_mmd.cpp
    tests/csrc/test_philox.cpp)
  target_link_libraries(hepgen_tests PRIVATE hepgen_kernels)
  if(HEPGEN_SANITIZE)
    set_source_files_properties(tests/csrc/fuzz.cpp PROPERTIES COMPILE_OPTIONS -O0) # it compiles longer than it runs
  endif()
  add_test(NAME kernels COMMAND hepgen_tests)
endif()
