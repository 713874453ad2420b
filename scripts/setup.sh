# shellcheck shell=bash
# What building feedtape needs. Sourced by scripts/demo, scripts/test and scripts/fuzz.
#
# Installs missing packages only on Debian and its relatives, and only as root or where sudo asks
# for no password. Everywhere else it says the one command to run, and ends the script.

say() {
    printf '==> %s\n' "$*" >&2
}

fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

# Ends the script unless everything is there to build with.
need_build_tools() {
    [ "$(uname -s)" = Linux ] || fail "feedtape runs on Linux only, this is $(uname -s)"
    need_packages
    need_rust
}

# A C compiler (zstd is built from its C sources), pkg-config and OpenSSL's headers.
need_packages() {
    local missing
    missing=$(missing_tools)
    [ -n "$missing" ] || return 0
    say "missing: $missing"
    if ! command -v apt-get >/dev/null; then
        fail "install what is missing, then run this again: $(install_command)"
    fi
    apt_install_as_root
    missing=$(missing_tools)
    [ -z "$missing" ] || fail "still missing after the installation: $missing"
}

# Commands that tests run, each of which a package of the same name brings.
need_commands() {
    local name apt_packages=()
    for name in "$@"; do
        command -v "$name" >/dev/null || apt_packages+=("$name")
    done
    [ ${#apt_packages[@]} -gt 0 ] || return 0
    apt_install_as_root
}

missing_tools() {
    local missing=()
    command -v cc >/dev/null || missing+=("a C compiler")
    if ! command -v pkg-config >/dev/null; then
        missing+=("pkg-config" "OpenSSL headers")
    elif ! pkg-config --exists openssl; then
        missing+=("OpenSSL headers")
    fi
    local IFS=,
    printf '%s' "${missing[*]}" | sed 's/,/, /g'
}

apt_packages=(gcc libc6-dev pkg-config libssl-dev)

install_command() {
    if command -v apt-get >/dev/null; then
        echo "apt-get install -y ${apt_packages[*]}"
    elif command -v dnf >/dev/null; then
        echo "dnf install -y gcc pkgconf-pkg-config openssl-devel"
    elif command -v pacman >/dev/null; then
        echo "pacman -S --needed gcc pkgconf openssl"
    elif command -v zypper >/dev/null; then
        echo "zypper install gcc pkg-config libopenssl-devel"
    elif command -v apk >/dev/null; then
        echo "apk add gcc musl-dev pkgconf openssl-dev"
    else
        echo "gcc, pkg-config and the development files of OpenSSL, by your system's packages"
    fi
}

# Installs apt_packages, or says how to.
apt_install_as_root() {
    if ! command -v apt-get >/dev/null; then
        fail "install what is missing, then run this again: ${apt_packages[*]}"
    elif [ "$(id -u)" = 0 ]; then
        apt_install env
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        apt_install sudo -n env
    else
        fail "install what is missing, then run this again: sudo $(install_command)"
    fi
}

# The arguments are what runs a command with its environment: env, or sudo -n env.
apt_install() {
    local apt=("$@" DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=60)
    say "installing ${apt_packages[*]}"
    "${apt[@]}" update >&2 || say "the package lists could not be brought up to date, going on"
    "${apt[@]}" install -y --no-install-recommends "${apt_packages[@]}" >&2 ||
        fail "the installation failed; run: $(install_command)"
}

# Cargo, and a compiler that is new enough.
need_rust() {
    local wanted found
    # A fresh installation is on the PATH of new shells only.
    if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
        PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    fi
    command -v cargo >/dev/null ||
        fail "cargo is missing; install Rust (https://rustup.rs), then run this again:" \
            "curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh"
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    found=$(rustc --version | cut -d ' ' -f 2)
    [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ] ||
        fail "Rust $found is too old, $wanted is needed; run: rustup update stable"
}
