#!/usr/bin/env bash
# Gets the Chromium in which tests open the project's pages. Where none can be had, says so and succeeds: those tests are
# then skipped with the reason.
#
#   scripts/setup_browser.sh      CORA_CHROMIUM=/path/to/chromium names one; tests take it too
set -uo pipefail
cd "$(dirname "$0")/.."

say() { echo "[browser] $*" >&2; }

for candidate in "${CORA_CHROMIUM:-}" chromium chromium-browser google-chrome; do
  if [[ -n $candidate ]] && command -v "$candidate" >/dev/null; then
    exit 0
  fi
done
browsers=${PLAYWRIGHT_BROWSERS_PATH:-$HOME/.cache/ms-playwright}
if compgen -G "$browsers/chromium*/INSTALLATION_COMPLETE" >/dev/null; then
  exit 0
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Root is the user of containers and of machines that run tests: there the system's package brings its libraries along.
from_system() {
  [[ $EUID == 0 ]] && command -v apt-get >/dev/null || return 1
  say "installing the system's chromium"
  export DEBIAN_FRONTEND=noninteractive
  timeout 60 apt-get update -qq >"$log" 2>&1 &&
    timeout 180 apt-get install -y -qq --no-install-recommends chromium >"$log" 2>&1
}

from_playwright() {
  say "asking playwright for its Chromium"
  timeout 180 .venv/bin/python -m playwright install --only-shell chromium >>"$log" 2>&1
}

if ! { from_system || from_playwright; }; then
  say "no Chromium to be had: tests of pages will be skipped. Install one, or set CORA_CHROMIUM. What was tried said:"
  tail -n 5 "$log" >&2
fi
