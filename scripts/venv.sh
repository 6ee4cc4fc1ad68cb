# Sourced by the scripts: `venv EXTRA` makes .venv and installs fedlite with that extra, once per pyproject.toml.
venv() {
    local extra=$1 stamp
    stamp=".venv/.installed-$extra-$(sha256sum pyproject.toml | cut -c1-16)"
    [ -f "$stamp" ] && return
    [ -x .venv/bin/python ] || { echo "making .venv"; python3 -m venv .venv; }
    echo "installing fedlite[$extra] (the first time takes a few minutes)"
    .venv/bin/python -m pip install --quiet --editable ".[$extra]"
    touch "$stamp"
}
