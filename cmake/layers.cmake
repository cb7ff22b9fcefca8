# One CMake library per layer, each with its own include view: a folder of symbolic
# links to itself and to the layers it may use. An include of anything else does not
# resolve, so the layering in docs/architecture.md is a compile error to break.

set(DOPPEL_VIEWS ${CMAKE_BINARY_DIR}/views)

function(doppel_link target_path link_path)
  get_filename_component(folder ${link_path} DIRECTORY)
  file(MAKE_DIRECTORY ${folder})
  file(CREATE_LINK ${target_path} ${link_path} SYMBOLIC)
endfunction()

# doppel_view(NAME PATHS...): a view that shows the given paths below src/ (folders or headers).
function(doppel_view name)
  set(view ${DOPPEL_VIEWS}/${name})
  file(REMOVE_RECURSE ${view})
  foreach(path ${ARGN})
    doppel_link(${CMAKE_SOURCE_DIR}/src/${path} ${view}/${path})
  endforeach()
endfunction()

# doppel_layer(NAME SOURCES_BELOW folder... SEES path... LINK target...)
# SOURCES_BELOW: folders below src/ whose *.cpp and *.S are compiled (a folder ending in
# "/." is not recursive). SEES: what the view shows.
function(doppel_layer name)
  cmake_parse_arguments(LAYER "" "" "SOURCES_BELOW;SEES;LINK" ${ARGN})
  set(sources)
  foreach(folder ${LAYER_SOURCES_BELOW})
    if(folder MATCHES "/\\.$")
      string(REGEX REPLACE "/\\.$" "" folder ${folder})
      file(GLOB found CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${folder}/*.cpp
           ${CMAKE_SOURCE_DIR}/src/${folder}/*.S)
    else()
      file(GLOB_RECURSE found CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${folder}/*.cpp
           ${CMAKE_SOURCE_DIR}/src/${folder}/*.S)
    endif()
    list(APPEND sources ${found})
  endforeach()
  doppel_view(${name} ${LAYER_SEES})
  add_library(doppel_${name} STATIC ${sources} ${CMAKE_SOURCE_DIR}/cmake/empty.cpp)
  target_include_directories(doppel_${name} PRIVATE ${DOPPEL_VIEWS}/${name})
  target_link_libraries(doppel_${name} PRIVATE doppel_warnings PUBLIC ${LAYER_LINK})
endfunction()
