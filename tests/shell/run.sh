#!/usr/bin/env bash
# Tests the program's completions in real shells, and its manual pages with their readers: scripts are parsed and
# complete what a user would type; pages are checked and rendered. Installs zsh, fish and mandoc if that is allowed.
# Needs the program, $ACETATE.
set -euo pipefail
cd "$(dirname "$0")/../.."

acetate=$(realpath "${ACETATE:-target/debug/acetate}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export HOME=$work
failed=0

have() { command -v "$1" >/dev/null; }
for tool in zsh fish mandoc; do
    if ! have "$tool" && [ "$(id -u)" = 0 ] && have apt-get; then
        { apt-get install -y --no-install-recommends "$tool" ||
            { apt-get update && apt-get install -y --no-install-recommends "$tool"; }; } >/dev/null 2>&1 || true
    fi
done

fail() {
    echo "FAILED   $1"
    sed 's/^/         /' "$work/said"
    failed=1
}
expect() { # NAME WORDS COMMAND...: it succeeds, and prints every one of these words in lines of their own or among others
    local name=$1 words=$2 word
    shift 2
    if ! "$@" >"$work/said" 2>&1; then
        fail "$name"
        return
    fi
    for word in $words; do
        if ! grep -qw -e "$word" "$work/said"; then
            echo "(no $word)" >>"$work/said"
            fail "$name"
            return
        fi
    done
    echo "ok       $name"
}

for shell in bash zsh fish; do
    "$acetate" completions "$shell" >"$work/$shell"
    if ! have "$shell"; then
        echo "SKIPPED: completions for $shell: no $shell"
        continue
    fi
    expect "$shell parses its completions" "" "$shell" -n "$work/$shell"
done
# shellcheck disable=SC2016  # bash's own variables
expect "bash completes commands" "decompose edit composite workflow" bash --norc -c '
    source "$1"
    COMP_WORDS=(acetate run "") COMP_CWORD=2
    _acetate acetate "" run
    printf "%s\n" "${COMPREPLY[@]}"' - "$work/bash"
if have fish; then
    # shellcheck disable=SC2016  # fish's own variables
    expect "fish completes commands" "decompose edit composite workflow" fish --no-config -c '
        source $argv[1]
        complete --do-complete "acetate run "' "$work/fish"
fi
if have zsh; then
    mkdir "$work/functions"
    cp "$work/zsh" "$work/functions/_acetate"
    # shellcheck disable=SC2016  # zsh's own variables
    expect "zsh finds its completions" "_acetate" zsh -f -c '
        fpath=($1 $fpath)
        autoload -Uz compinit && compinit -D
        print $_comps[acetate]' - "$work/functions"
fi

"$acetate" man --out "$work/man"
pages=$(cd "$work/man" && echo *)
for page in acetate.1 acetate-run-decompose.1 acetate-jobs-list.1; do
    [ -s "$work/man/$page" ] || { echo "FAILED   there is no $page among $pages"; failed=1; }
done
if have mandoc; then expect "the manual, checked" "" mandoc -T lint -W error "$work"/man/*.1
else echo "SKIPPED: the manual, checked: no mandoc"; fi
if have man; then expect "the manual, rendered" "NAME SYNOPSIS --layers --seed" man -P cat -l "$work/man/acetate-run-decompose.1"
else echo "SKIPPED: the manual, rendered: no man"; fi
"$acetate" man run decompose >"$work/page"
cmp "$work/page" "$work/man/acetate-run-decompose.1" || failed=1
exit "$failed"
