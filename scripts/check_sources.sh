#!/bin/bash
# check_sources.sh BUILD: rules that no compiler checks, and the rule that the include
# views must: a forbidden include does not build. Lists every violation, then fails.
set -u
cd "$(dirname "$0")/.." || exit 2
build=${1:-build}
violations=0

complain() {
    printf 'source rule: %s\n' "$1" >&2
    violations=$((violations + 1))
}

mapfile -t sources < <(find src tests bench guests scripts cmake docs .ci Makefile CMakeLists.txt \
    README.md -type f ! -name '*.pyc' ! -path '*/corpus/*')

while read -r lines file; do
    [ "$file" = total ] || [ "$lines" -le 1000 ] || complain "$file has $lines lines, 1000 at most"
done < <(printf '%s\0' "${sources[@]}" | xargs -0 wc -l)

while IFS= read -r hit; do
    complain "relative include, start with the layer instead: $hit"
done < <(grep -rnE '#[[:space:]]*include[[:space:]]*"\.\.?/' src tests --include='*.h' \
    --include='*.cpp' --include='*.S')

# The marks are spelled in pieces here, for this file is searched too.
while IFS= read -r hit; do
    complain "unfinished: $hit"
done < <(grep -nE '\b(TO''DO|FIX''ME|X''XX)\b' "${sources[@]}" /dev/null)

# Each layer's view must show what is below it and hide what is not: the first include has
# to compile, the second must not.
compiles() {
    echo "#include \"$2\"" | c++ -std=c++20 -fsyntax-only -I "$build/views/$1" -x c++ - 2>/dev/null
}
layering() {
    local view=$1 allowed=$2 forbidden=$3
    [ -d "$build/views/$view" ] || { complain "no include view '$view' in $build"; return; }
    [ -f "src/$forbidden" ] || complain "layering check names a file that is gone: $forbidden"
    compiles "$view" "$allowed" || complain "layer $view cannot include $allowed"
    if compiles "$view" "$forbidden"; then
        complain "layer $view can include $forbidden, which is not below it"
    fi
}
layering base base/result.h bus/bus.h
layering x86 x86/cpu_state.h memory/guest_memory.h
layering memory memory/guest_memory.h bus/bus.h
layering bus bus/bus.h memory/guest_memory.h
layering devices bus/bus.h engine/engine.h
layering interpret engine/engine.h vm/vm.h
layering kvm engine/interpret/interpreter.h engine/interpret/core.h
layering user engine/translate/link/user_link.h base/result.h
layering user engine/translate/link/exec_context.h engine/translate/worker/executor.h
layering translator engine/interpret/interpreter.h engine/interpret/core.h
layering translator engine/translate/block/translation.h vm/vm.h
layering worker_parts engine/translate/worker/executor.h engine/interpret/core.h
layering worker_parts engine/interpret/interpreter.h devices/pci/pci_host.h
layering translate engine/translate/link/mailbox.h engine/translate/worker/executor.h
layering translate engine/translate/vmm/launch.h engine/translate/space/window.h
layering translate engine/engine.h engine/interpret/interpreter.h
layering machine engine/engine.h engine/interpret/interpreter.h
layering vm machine/layout.h cli/command.h
layering cli vm/vm.h machine/layout.h

# The order inside the worker, which its views are too coarse for.
not_from() {
    local forbidden=$1 folder
    shift
    for folder in "$@"; do
        [ -d "src/engine/translate/$folder" ] || complain "no folder src/engine/translate/$folder"
        while IFS= read -r hit; do
            complain "not below this folder: $hit"
        done < <(grep -rnE "#[[:space:]]*include[[:space:]]*\"engine/translate/($forbidden)/" \
            "src/engine/translate/$folder")
    done
}
not_from 'worker|dispatch|fault|user|vmm' block lower emit cache space
not_from 'cache|space' block lower emit
not_from 'lower|emit|space' cache
not_from 'block|lower|emit|cache' space
not_from 'block|lower|emit|cache|space|worker|dispatch|fault|user|vmm' link
not_from 'user|vmm' worker dispatch fault
not_from 'vmm|worker|dispatch|fault|block|lower|emit|cache|space' user
not_from 'user|worker|dispatch|fault|block|lower|emit|cache|space' vmm

[ "$violations" -eq 0 ] || exit 1
echo "${#sources[@]} files, no violations"
