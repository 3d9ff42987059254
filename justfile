# Everything the checks consist of, one recipe each. `./quickstart test` runs check, lowest, pythons and audit.

set shell := ["bash", "-euo", "pipefail", "-c"]

# Debian keeps mosquitto in /usr/sbin, which is not on everybody's path.
export PATH := justfile_directory() / ".venv/bin:" + env("PATH") + ":/usr/sbin"

# Where Python is told to keep nothing it compiled, every one of the tests' thousand processes compiles the kiosk anew.
export PYTHONDONTWRITEBYTECODE := ""

# Many tests wait for a process, a broker or a camera: more of them than processors, and who has none left takes others'.
workers := "--dist worksteal --numprocesses " + `echo $(($(getconf _NPROCESSORS_ONLN) + 2))`

# Where docs/reliability.md has its figures from.
reliability := "docs/measured/reliability"

_list:
    @just --list --unsorted

# Format, lint, types, import rules, generated pages, tests
check: lint test

# Everything but the tests
lint: && docs-check
    ruff format --check .
    ruff check .
    mypy
    lint-imports

# The tests; arguments go to pytest
test *arguments:
    pytest {{ workers }} {{ arguments }}

# The tests, and which lines they reach: slower
coverage *arguments: (test "--cov --cov-report term:skip-covered" arguments)

# Mend the format and what the linter can mend by itself
fix:
    ruff format .
    ruff check --fix .

# Write the pages that are generated from the code
docs:
    for generator in docs/generate_*.py; do python "$generator"; done

# Are the generated pages up to date?
docs-check:
    for generator in docs/generate_*.py; do python "$generator" --check; done

# The environments of lowest and pythons, which otherwise set up their own
environments:
    #!/usr/bin/env bash
    set -euo pipefail
    ! ./quickstart has-python 3.11 || {{ lowest_environment }}
    ! ./quickstart has-python 3.13 || just _environment 3.13

lowest_environment := "./quickstart environment .venv-lowest 3.11 demo,test,tflite-runtime tests/lowest-requirements.txt"

_environment version:
    @./quickstart environment .venv-{{ version }} {{ version }} demo,test

# The runtime's tests, but those of faults and stories, beside the lowest declared versions: once with LiteRT, once with tflite-runtime (Python 3.11)
lowest:
    #!/usr/bin/env bash
    set -euo pipefail
    if ! ./quickstart has-python 3.11; then
        echo "skipped: no Python 3.11 on this machine (tflite-runtime exists for no later one)"
        exit 0
    fi
    {{ lowest_environment }}
    tests() { .venv-lowest/bin/python -m pytest {{ workers }} -m 'not (convert or faults or stories)' --ignore tests/test_web_browser.py "$@"; }
    tests --runtime litert
    # Only what has to do with models can differ.
    tests --runtime tflite-runtime -k 'demo or detector or embedder or recognition'

# The runtime's tests on another Python: just python 3.13
python version: (_environment version)
    .venv-{{ version }}/bin/python -m pytest {{ workers }} -m 'not (convert or faults or stories)' \
        --ignore tests/test_web_browser.py

# The newest Python the kiosk supports, where it is installed
pythons:
    @if ./quickstart has-python 3.13; then just python 3.13; else echo "skipped: no Python 3.13 on this machine"; fi

# Every figure of the fault tests in the long form, two and a half hours; run it as root, for the power cuts
faults-long *arguments:
    pytest tests/faults --faults long --fault-results {{ reliability }} {{ arguments }}
    python benchmarks/outbox.py > {{ reliability }}/outbox.json
    python benchmarks/soak.py > {{ reliability }}/soak.json

# A real kiosk shown to Home Assistant itself, in an environment of its own (Python 3.13, 600 MB; minutes the first time)
home-assistant version="2025.4.4":
    #!/usr/bin/env bash
    set -euo pipefail
    if [ ! -e .venv-home-assistant/{{ version }} ]; then
        rm -rf .venv-home-assistant
        $(./quickstart find-python 3.13) -m venv .venv-home-assistant
        # Its own requirements do not name those of its integrations.
        .venv-home-assistant/bin/pip install --quiet homeassistant=={{ version }} paho-mqtt==2.1.0
        touch .venv-home-assistant/{{ version }}
    fi
    pytest tests/test_home_assistant.py --home-assistant .venv-home-assistant/bin/python

# The kiosk on 64-bit ARM under qemu, as root: just arm64 [bookworm|trixie] [--deb FILE] [...]; docs/arm64.md
arm64 *arguments:
    nice python tests/arm64 {{ arguments }}

# What the kiosk needs, as it is installed here: a list in sbom.json (CycloneDX), and whether it has known vulnerabilities
audit *options:
    #!/usr/bin/env bash
    set -euo pipefail
    needed=$(python .ci/sbom.py)
    echo "sbom.json: $(wc -l <<< "$needed") packages"
    ask() { pip-audit --strict --disable-pip --no-deps --progress-spinner off {{ options }} -r /dev/stdin 2>&1; }
    # A registry that carries no advisories knows of no vulnerability at all: first one that everybody knows of.
    if ! grep -q '^requests *2\.19\.0' <<< "$(timeout 15 bash -c "$(declare -f ask); ask" <<< requests==2.19.0 || true)"; then
        echo "NOT CHECKED for known vulnerabilities: no advisory service can be reached from here" >&2
        exit 69
    fi
    ask <<< "$needed"

# The Debian package, into dist/: just package [bookworm|trixie] [arm64|amd64]
package *arguments:
    debian/build {{ arguments }}

# Do two builds of the package, in different surroundings, give the same bytes? Arguments as of package
reproducible *arguments:
    #!/usr/bin/env bash
    set -euo pipefail
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    built=$(debian/build {{ arguments }})
    mv "$built" "$folder/first.deb"
    (umask 077 && TZ=Asia/Seoul LC_ALL=C HOME=$folder debian/build {{ arguments }})
    cmp "$folder/first.deb" "$built" && echo "the same bytes: $built"

# What goes into the package: today's versions of all that the kiosk needs, with their hashes
lock:
    uv pip compile pyproject.toml --extra gpio --quiet --upgrade --universal --python-version 3.11 \
        --only-binary :all: --generate-hashes --custom-compile-command "just lock" -o debian/requirements.txt

# The package's life on a real systemd, from apt install to purge; as root, on Debian: just appliance [bookworm|trixie]
appliance *arguments:
    python tests/appliance.py --results docs/measured/appliance.json {{ arguments }}

# The pictures of the page and of the terminal in docs/images, made anew
screenshots:
    python docs/screenshots.py

# The demo
demo:
    kiosk demo
