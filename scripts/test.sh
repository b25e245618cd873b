#!/usr/bin/env bash
# From a bare clone to tested code: environment and the default test suite.
# Arguments go to pytest, e.g. -k causality, or -m slow for the long tests.
. "$(dirname "$0")/env.sh" dev

python -m pytest "$@"
